"""Checkpoints that are damaged, changed, of another version or model, or that name what they may not."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdnative.checkpoint import CheckpointError, file_size, folder, inspect, load, save, weights
from kdnative.checkpoint.manifest import digest_of
from kdnative.checkpoint.weights import open_checkpoint
from kdnative.convert import convert_
from tests.checkpoints import edit, mlp, names, revouch, weights_file
from tests.input_scales import scaled_weights
from tests.small_models import bert


@pytest.fixture
def saved(tmp_path):
    save(convert_(mlp(), "w4a8-g64").model, tmp_path / "m")
    return tmp_path / "m"


def rewrite(folder, change):
    """Other tensors, with a description that vouches for the file."""
    file = weights_file(folder)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    revouch(folder)
    listed = {k: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for k, t in tensors.items()}
    edit(folder, lambda manifest: manifest["weights"].update(tensors=listed))


def test_no_checkpoint(tmp_path):
    for call in (load, inspect):
        with pytest.raises(CheckpointError, match=r"kdnative.json: there is no such file"):
            call(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no .safetensors file"):
        file_size(tmp_path)


def refusing(error):
    def refuse(*arguments, **options):
        raise OSError(error, os.strerror(error))  # which makes a PermissionError and so on of itself

    return refuse


UNREADABLE = {errno.EACCES: "no permission; ask its owner", errno.EIO: "Input/output error"}


@pytest.mark.parametrize("code", UNREADABLE)
def test_files_that_the_system_refuses(saved, monkeypatch, code):
    with monkeypatch.context() as patch:  # not chmod: root may read everything
        patch.setattr(folder.os, "open", refusing(code))
        for call in (load, inspect):
            with pytest.raises(CheckpointError, match=f"can't be read: .*{UNREADABLE[code]}"):
                call(saved)
    opened = os.open

    def open_all_but_weights(name, *arguments, **options):
        return (refusing(code) if "safetensors" in str(name) else opened)(name, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "open", open_all_but_weights)
        with pytest.raises(CheckpointError, match=f"safetensors: can't be read: .*{UNREADABLE[code]}"):
            load(saved)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "sha256_of_open", refusing(code))
        with pytest.raises(CheckpointError, match=f"safetensors: can't be read: .*{UNREADABLE[code]}"):
            load(saved)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refusing(code))
        for call in (file_size, lambda path: save(mlp(), path)):
            with pytest.raises(CheckpointError, match=f"can't be read: .*{UNREADABLE[code]}"):
                call(saved)
    load(saved)


KINDS = {"a folder": os.mkdir, "a pipe": os.mkfifo, "a device": lambda path: os.symlink("/dev/zero", path)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["kdnative.json", "weights"])
def test_what_is_no_file_is_not_read(saved, kind, which):
    file = weights_file(saved) if which == "weights" else saved / which
    file.unlink()
    KINDS[kind](file)
    with pytest.raises(CheckpointError, match=f"{file.name}: can't be read: there is {kind} of that name"):
        load(saved)
    if which == "kdnative.json":
        with pytest.raises(CheckpointError, match=f"there is {kind} of that name"):
            inspect(saved)


def test_links_to_files_are_files(saved, tmp_path):
    """As in the cache of a hub."""
    (tmp_path / "blobs").mkdir()
    for file in (saved / "kdnative.json", weights_file(saved)):
        os.rename(file, tmp_path / "blobs" / file.name)
        os.symlink(f"../blobs/{file.name}", file)
    load(saved)


def test_files_in_place_of_folders(saved):
    for path in (saved / "kdnative.json", weights_file(saved) / "below"):
        for call in (load, inspect):
            with pytest.raises(CheckpointError, match="is a file, or lies below one; a checkpoint is the folder"):
                call(path)


def test_damaged_weights(saved):
    file = weights_file(saved)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=rf"{file.name}: truncated: {len(whole) - 10} bytes"):
        load(saved)
    file.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match=f"{file.name}: changed"):
        load(saved)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(saved)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"{file.name}: there is no such file"):
        load(saved)


def test_weights_that_are_no_safetensors_file_though_vouched_for(saved):
    whole = weights_file(saved).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    first, *_, last = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])

    def with_header(change, data=data):
        changed = json.loads(json.dumps(header))
        text = json.dumps(change(changed) or changed).encode()
        return len(text).to_bytes(8, "little") + text + data

    def move(header, name, begin, end):
        header[name]["data_offsets"] = [begin, end]

    end = header[last]["data_offsets"][1]
    for damaged in (
        b"",
        whole[:7],
        (1 << 62).to_bytes(8, "little") + whole[8:],
        whole[:8] + b"?" * length + data,
        with_header(lambda h: [1]),
        with_header(lambda h: {n: {**e, "data_offsets": [0, 4]} for n, e in h.items()}),
        with_header(lambda h: move(h, last, end, end + 8)),
        with_header(lambda h: move(h, first, -4, 4)),
        with_header(lambda h: move(h, first, "0", 4)),
        with_header(lambda h: h[first].update(dtype="F4")),
        with_header(lambda h: None, data + b"more"),
        with_header(lambda h: None, data[:-1]),
    ):
        weights_file(saved).write_bytes(damaged)
        revouch(saved)
        with pytest.raises(CheckpointError, match=f"{weights_file(saved).name}: damaged: "):
            load(saved)
    weights_file(saved).write_bytes(whole)
    revouch(saved)
    load(saved)


def test_weights_cut_off_while_they_are_read(saved):
    with open_checkpoint(saved)[1] as weights:
        name = max(weights.shapes, key=lambda name: weights._offsets[name])
        os.truncate(weights.file, weights._offsets[name] + 1)
        with pytest.raises(CheckpointError, match=f"truncated while it was read: {name} is not all there"):
            weights.read(name)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 100_000, '{"format": 1}', '{"format": 1, "weights": 3}', "\xff"]
)
def test_damaged_descriptions(saved, text):
    (saved / "kdnative.json").write_bytes(text.encode("latin-1"))
    for call in (load, inspect):
        with pytest.raises(CheckpointError, match="kdnative.json: "):
            call(saved)
    save(mlp(), saved)  # replacing it is a way to repair it
    load(saved)


def test_descriptions_of_which_one_byte_changed(saved):
    file = saved / "kdnative.json"
    whole = file.read_bytes()
    noticed = 0
    for at in range(0, len(whole), 7):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        file.write_bytes(damaged)
        try:
            if json.loads(damaged) == json.loads(whole):  # a space between two entries
                continue
        except ValueError:
            pass
        noticed += 1
        for call in (load, inspect):
            with pytest.raises(CheckpointError, match="kdnative.json: "):
                call(saved)
    assert noticed > 50
    file.write_bytes(whole)
    load(saved)


def test_descriptions_vouch_for_what_is_read_not_for_what_was_written():
    labels = {"labels": {number: "x" for number in range(12)}, "sizes": (1, 2)}  # as numbers 2 comes before 10
    read = json.loads(json.dumps(labels))
    assert digest_of(labels) == digest_of(read) == digest_of({**read, "sha256": "any"})
    assert digest_of(labels) != digest_of({**read, "sizes": [2, 1]})


def test_other_versions(saved):
    edit(saved, lambda m: m.update(format=3, kdnative="9.0"))
    with pytest.raises(CheckpointError, match="format 3; .*reads format 2.*written by kdnative '9.0', upgrade"):
        load(saved)
    edit(saved, lambda m: m.update(format=1))
    with pytest.raises(CheckpointError, match="format 1; .*reads format 2: save the model again"):
        load(saved)
    for version in (True, float("nan"), 2.0):
        edit(saved, lambda m, version=version: m.update(format=version))
        with pytest.raises(CheckpointError, match="reads format 2"):
            load(saved)
    edit(saved, lambda m: m.update(format="one"))
    with pytest.raises(CheckpointError, match="format 'one'"):
        load(saved)


def test_tensors_that_are_not_those_of_the_model(saved):
    rewrite(saved, lambda t: t.pop("3.weight"))
    with pytest.raises(CheckpointError, match="safetensors: 3.weight is missing"):
        load(saved)
    rewrite(saved, lambda t: t.update({"3.weight": torch.ones(255)}))
    with pytest.raises(CheckpointError, match=r"3.weight has shape \[255\], the model needs \[256\]"):
        load(saved)
    rewrite(saved, lambda t: t.update({"3.weight": torch.ones(256), "more": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="Unexpected.*more"):
        load(saved)
    rewrite(saved, lambda t: (t.pop("more"), t.update({"1.scale": torch.ones(256, 2)})))
    with pytest.raises(CheckpointError, match=r"1.scale has shape \[256, 2\], the model needs \[256, 1\]"):
        load(saved)
    rewrite(saved, lambda t: t.update({"1.scale": torch.full((256, 1), torch.nan)}))
    with pytest.raises(CheckpointError, match="1: scale"):
        load(saved)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_input_scales_that_are_none(tmp_path, value):
    model = nn.Sequential(nn.Linear(64, 32))
    saved = save(convert_(model, weights=scaled_weights(model)).model, tmp_path / "m")
    rewrite(saved, lambda t: t["0.input_scale"].__setitem__(5, value))
    with pytest.raises(CheckpointError, match="0: input_scale holds zero, negative, infinite or NaN values"):
        load(saved)
    rewrite(saved, lambda t: t.update({"0.input_scale": torch.ones(63)}))
    with pytest.raises(CheckpointError, match=r"0.input_scale has shape \[63\], the model needs \[64\]"):
        load(saved)
    rewrite(saved, lambda t: t.pop("0.input_scale"))
    with pytest.raises(CheckpointError, match="0.input_scale is missing"):
        load(saved)


def test_descriptions_that_name_other_things(saved):
    edit(saved, lambda m: m["weights"]["tensors"].pop("3.weight"))
    with pytest.raises(CheckpointError, match=r"it holds \d+ tensors, and kdnative.json says \d+"):
        load(saved)
    edit(saved, lambda m: m["weights"]["tensors"].update({"3.other": {"shape": [256], "dtype": "float32"}}))
    with pytest.raises(CheckpointError, match="not as kdnative.json says: 3.other, 3.weight"):
        load(saved)


@pytest.mark.parametrize(
    "entry",
    [
        {"class": "os.system", "config": {"command": "touch pwned"}},
        {"class": "torch.nn.init", "config": {}},
        {"class": "torch.nn.Linear", "config": {"in_features": "x", "out_features": 2, "bias": True}},
        {"class": "torch.nn.Linear", "config": {"in_features": 128, "out_features": 3, "bias": True}},
        {"class": "torch.nn.Linear"},
        {"class": "kdnative.nn.Linear", "config": {"in_features": 128, "out_features": 2, "scheme": "w9a9"}},
        {"class": "kdnative.nn.Linear", "config": {}},
        {"class": "torch.nn.Linear", "config": 5},
    ],
)
def test_descriptions_can_not_build_other_classes(saved, entry, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    edit(saved, lambda m: m["modules"].update({"5": entry}))
    with pytest.raises(CheckpointError):
        load(saved)
    assert names(tmp_path) == ["m"]


@pytest.mark.parametrize(
    "part",
    [
        {"class": "pipeline"},
        {"class": "AutoModel"},
        {"class": "__builtins__"},
        {"class": "NoSuchModel"},
        {"class": 3},
        {"config": 3},
        {"config": {"hidden_size": "x"}},
    ],
)
def test_descriptions_can_not_build_other_transformers_classes(tmp_path, part):
    save(bert(), tmp_path / "m")
    edit(tmp_path / "m", lambda m: m["transformers"].update(part))
    with pytest.raises(CheckpointError, match="m"):
        load(tmp_path / "m")


def test_attributes_can_only_be_numbers_that_exist(tmp_path):
    save(bert(), tmp_path / "m")
    for attribute, value in [("forward", 3), ("num_attention_heads", "x"), ("__class__", 1), ("nothing", 1)]:
        edit(tmp_path / "m", lambda m, a=attribute, v=value: m.update(
            attributes={"bert.encoder.layer.0.attention.self": {a: v}}
        ))  # fmt: skip
        with pytest.raises(CheckpointError, match=f"{attribute} is not a number"):
            load(tmp_path / "m")


def test_a_model_that_does_not_fit_gets_its_modules_back(saved):
    other = nn.Sequential(*mlp(), nn.Linear(2, 2))
    modules, state = list(other.modules()), {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="6.weight is missing"):
        load(saved, into=other)
    assert list(other.modules()) == modules
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
    with pytest.raises(CheckpointError, match="does not fit into the given Linear"):
        load(saved, into=nn.Linear(4, 4))
