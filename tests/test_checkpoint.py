import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import kdnative
from kdnative import checkpoint
from kdnative.checkpoint import CheckpointError, file_size, inspect, load, save
from kdnative.convert import convert_
from kdnative.nn import Embedding, Encoder, Linear
from kdnative.quantize import FakeQuantLinear, prepare_qat_


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(100, 64, padding_idx=0), nn.Linear(64, 256), nn.GELU("tanh"), nn.LayerNorm(256, eps=1e-3),
        nn.Sequential(nn.Linear(256, 128, bias=False), nn.Dropout(0.3)), nn.Linear(128, 2),
    )  # fmt: skip


def bert(seed=0, kind="BertForSequenceClassification", **changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    settings = {**sizes, "vocab_size": 200, "max_position_embeddings": 64, "num_labels": 3, **changes}
    torch.manual_seed(seed)
    return getattr(transformers, kind)(transformers.BertConfig(**settings)).eval()


def ids(shape=(2, 7)):
    torch.manual_seed(1)
    return torch.randint(0, 100, shape)


@torch.no_grad()
def output(model):
    y = model(ids())
    return y if isinstance(y, torch.Tensor) else y[0]


def assert_same(a, b):
    assert torch.equal(output(a), output(b))
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)


def names(folder):
    return sorted(os.listdir(folder))


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [None, "w8a8", "w4a8-g32-asym", "w2a8-g64", "w8a16", "w4a16-g64", "w4a8-g32-int"])
def test_mlp(tmp_path, scheme):
    model = mlp().eval()
    if scheme:
        convert_(model, scheme)
    assert save(model, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    loaded = load(tmp_path / "a" / "b")
    assert_same(model, loaded)
    assert repr(loaded) == repr(model) and not loaded.training
    assert names(tmp_path / "a") == ["b"] and names(tmp_path / "a" / "b") == ["kdnative.json", "model.safetensors"]
    assert_same(model, load(tmp_path / "a" / "b", into=mlp(1).eval()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["float", "fused", "layers"])
def test_bert(tmp_path, dtype, how):
    model = bert().to(dtype)
    if how != "float":
        convert_(model, {"*attention*": "w8a8", "*": "w4a8-g64"}, fuse=how == "fused")
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert_same(model, loaded)
    assert type(loaded) is type(model) and loaded.config.to_dict() == model.config.to_dict()
    assert type(loaded.bert) is (Encoder if how == "fused" else type(model.bert))
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    assert output(loaded).dtype == dtype
    assert_same(model, load(tmp_path / "m", into=bert(seed=5).to(dtype)))


def test_bare_encoder(tmp_path):
    model = convert_(bert().bert).model
    save(model, tmp_path / "m")
    assert_same(model, load(tmp_path / "m"))
    assert_same(model, load(tmp_path / "m", into=convert_(bert(seed=3).bert).model))
    with pytest.raises(CheckpointError, match="holds a kdnative.nn.Encoder, which can't be loaded into a BertModel"):
        load(tmp_path / "m", into=bert().bert)


@pytest.mark.parametrize("convert", [False, True])
def test_structurally_pruned_bert(tmp_path, convert):
    from kdnative.prune import structured_

    sizes = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 256}
    model = bert(**sizes)
    structured_(model, heads=0.5, ffn=0.5, example_inputs={"input_ids": ids()}, multiple_of=16)
    assert model.bert.encoder.layer[0].attention.self.query.out_features == 64
    if convert:
        convert_(model)
    save(model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "transformers"
    assert_same(model, load(tmp_path / "m"))
    assert_same(model, load(tmp_path / "m", into=bert(9, **sizes)))


def test_layers_of_different_shapes(tmp_path):
    """Shapes and head counts that no configuration can say, and fewer layers than it says."""
    model = bert(num_hidden_layers=3)
    del model.bert.encoder.layer[2]
    attention = model.bert.encoder.layer[1].attention
    for name in ("query", "key", "value"):
        setattr(attention.self, name, nn.Linear(64, 32))
    attention.output.dense = nn.Linear(32, 64)
    attention.self.num_attention_heads, attention.self.all_head_size = 2, 32
    layer = model.bert.encoder.layer[0]
    layer.intermediate.dense, layer.output.dense = nn.Linear(64, 80), nn.Linear(80, 64)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert_same(model, loaded)
    assert loaded.bert.encoder.layer[1].attention.self.num_attention_heads == 2
    filled = load(tmp_path / "m", into=bert(4, num_hidden_layers=3))
    assert_same(model, filled)
    assert filled.bert.encoder.layer[1].attention.self.all_head_size == 32


def test_quantization_aware_student(tmp_path):
    for model in (mlp(), bert()):
        prepare_qat_(model, "w4a8-g32", clip="learn")
        save(model.eval(), tmp_path / "m")
        loaded = load(tmp_path / "m")
        assert_same(model, loaded)
        assert [str(m.scheme) for m in loaded.modules() if isinstance(m, FakeQuantLinear)]
        shutil.rmtree(tmp_path / "m")


def test_tied_weights_are_stored_once_and_tied_again(tmp_path):
    model = bert(kind="BertForMaskedLM")
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert_same(model, loaded)
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        shapes = [tuple(file.get_slice(k).get_shape()) for k in file.keys()]  # noqa: SIM118
    assert shapes.count((200, 64)) == 1


def test_views_and_transposed_tensors(tmp_path):
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
    storage = torch.randn(8, 12)
    model[0].weight = nn.Parameter(storage[:, :8].t()[:, :8].t()[:4])
    model[1].weight = nn.Parameter(storage[:, 8:])
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_checkpoints_are_plain_and_the_same_every_time(tmp_path):
    model = convert_(mlp(), "w4a8-g64").model
    save(model, tmp_path / "a")
    save(model, tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tensors = load_file(tmp_path / "a" / "model.safetensors")
    assert tensors["1.qweight"].dtype == torch.uint8 and tensors["1.qweight"].shape == (256, 32)
    manifest = json.loads((tmp_path / "a" / "kdnative.json").read_text())
    weights = (tmp_path / "a" / "model.safetensors").read_bytes()
    assert manifest["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["weights"]["bytes"] == len(weights) == file_size(tmp_path / "a")
    assert manifest["kdnative"] == kdnative.__version__ and manifest["format"] == checkpoint.FORMAT
    assert manifest["weights"]["tensors"]["1.scale"] == {"shape": [256, 1], "dtype": "float32"}
    assert (tmp_path / "a" / "model.safetensors").stat().st_mode == (tmp_path / "a" / "kdnative.json").stat().st_mode


def test_models_that_need_into(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.act = nn.Linear(64, 64), nn.ReLU()

        def forward(self, x):
            return self.act(self.body(x)) + x

    model, x = Model().eval(), torch.randn(3, 64)
    convert_(model)
    save(model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    with pytest.raises(CheckpointError, match=r"Model can't be rebuilt.*load\(path, into=model\)"):
        load(tmp_path / "m")
    other = Model()
    assert load(tmp_path / "m", into=other) is other and other.training
    assert type(other.body) is Linear and torch.equal(other(x), model(x))


def test_a_module_used_twice_is_not_rebuilt_wrongly(tmp_path):
    shared = nn.Linear(64, 64)
    save(nn.Sequential(shared, nn.ReLU(), shared), tmp_path / "m")
    with pytest.raises(CheckpointError, match="into="):
        load(tmp_path / "m")


def test_layers_that_hide_an_argument_are_not_rebuilt_wrongly(tmp_path):
    save(nn.Sequential(nn.MultiheadAttention(8, 2, add_bias_kv=True)), tmp_path / "m")
    with pytest.raises(CheckpointError, match="into="):
        load(tmp_path / "m")


# -- writing -----------------------------------------------------------------------------------------------------------


def test_replaces_a_checkpoint_and_keeps_files_of_others(tmp_path):
    class Tokenizer:
        def save_pretrained(self, folder):
            with open(os.path.join(folder, "vocab.txt"), "w") as file:
                file.write("a\nb\n")

    folder = tmp_path / "m"
    save(mlp(), folder, tokenizer=Tokenizer())
    (folder / "notes.txt").write_text("mine")
    assert names(folder) == ["kdnative.json", "model.safetensors", "notes.txt", "vocab.txt"]
    model = convert_(mlp(1)).model
    save(model, folder)
    assert names(folder) == ["kdnative.json", "model.safetensors", "notes.txt"], "the old vocabulary is gone"
    assert (folder / "notes.txt").read_text() == "mine" and names(tmp_path) == ["m"]
    assert_same(model, load(folder))


def test_refuses_folders_that_are_something_else(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(CheckpointError, match="not empty and not a kdnative checkpoint"):
        save(mlp(), tmp_path / "photos")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="a checkpoint is a folder"):
        save(mlp(), tmp_path / "file")
    with pytest.raises(CheckpointError, match="could not be written|Not a directory|exists"):
        save(mlp(), tmp_path / "file" / "below")
    assert names(tmp_path) == ["file", "photos"] and names(tmp_path / "photos") == ["a.jpg"]
    (tmp_path / "empty").mkdir()
    save(mlp(), tmp_path / "empty")
    load(tmp_path / "empty")


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("step", ["_write_tensors", "_write_json"])
def test_a_failing_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, exists, step):
    folder, old = tmp_path / "m", mlp().eval()
    if exists:
        save(old, folder)
    before = {name: (folder / name).read_bytes() for name in names(folder)} if exists else None

    def full(file, *args):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, step, full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(mlp(1), folder)
    assert names(tmp_path) == (["m"] if exists else [])
    if exists:
        assert before == {name: (folder / name).read_bytes() for name in names(folder)}
        assert_same(old, load(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_disk_that_really_refuses_leaves_the_old_checkpoint(tmp_path):
    old = mlp().eval()
    save(old, tmp_path / "m")
    program = """
        import resource, sys
        from torch import nn
        from kdnative.checkpoint import CheckpointError, save
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save(nn.Sequential(nn.Linear(512, 512)), sys.argv[1])
        except CheckpointError as error:
            print("refused:", error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "m")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused: {tmp_path / 'm'}: the checkpoint could not be written")
    assert names(tmp_path) == ["m"]
    assert_same(old, load(tmp_path / "m"))


@pytest.mark.parametrize("broken", [True, False])
def test_folders_change_places_without_the_system_call_too(tmp_path, monkeypatch, broken):
    from kdnative import files

    monkeypatch.setattr(files.sys, "platform", "other")
    old, new = mlp().eval(), mlp(1).eval()
    save(old, tmp_path / "m")
    if broken:
        rename = os.rename

        def failing(source, target):
            if str(source).endswith(".tmp"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            rename(source, target)

        monkeypatch.setattr(files.os, "rename", failing)
        with pytest.raises(CheckpointError, match="Input/output error"):
            save(new, tmp_path / "m")
    else:
        save(new, tmp_path / "m")
    assert names(tmp_path) == ["m"]
    assert_same(old if broken else new, load(tmp_path / "m"))


def test_models_that_can_not_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match="0.weight is on the meta device"):
        save(nn.Sequential(nn.Linear(4, 4, device="meta")), tmp_path / "m")
    assert names(tmp_path) == []


# -- damaged checkpoints -----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    save(convert_(mlp(), "w4a8-g64").model, tmp_path / "m")
    return tmp_path / "m"


def edit(folder, change):
    file = folder / "kdnative.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def rewrite(folder, change):
    """Other tensors, with a description that vouches for the file."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)

    def vouch(manifest):
        weights = manifest["weights"]
        weights["bytes"] = file.stat().st_size
        weights["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        weights["tensors"] = {
            k: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for k, t in tensors.items()
        }

    edit(folder, vouch)


def test_no_checkpoint(tmp_path):
    for call in (load, inspect):
        with pytest.raises(CheckpointError, match=r"kdnative.json: there is no such file"):
            call(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no .safetensors file"):
        file_size(tmp_path)


def test_damaged_weights(saved):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match=rf"model.safetensors: truncated: {len(whole) - 10} bytes"):
        load(saved)
    file.write_bytes(whole + b"x")
    with pytest.raises(CheckpointError, match="model.safetensors: changed"):
        load(saved)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(saved)
    file.unlink()
    with pytest.raises(CheckpointError, match="model.safetensors: there is no such file"):
        load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "weights": 3}', "\xff"])
def test_damaged_descriptions(saved, text):
    (saved / "kdnative.json").write_bytes(text.encode("latin-1"))
    for call in (load, inspect):
        with pytest.raises(CheckpointError, match="kdnative.json: "):
            call(saved)
    save(mlp(), saved)  # replacing it is a way to repair it
    load(saved)


def test_other_versions(saved):
    edit(saved, lambda m: m.update(format=2, kdnative="9.0"))
    with pytest.raises(CheckpointError, match="format 2; .*reads format 1.*written by kdnative 9.0, upgrade"):
        load(saved)
    edit(saved, lambda m: m.update(format="one"))
    with pytest.raises(CheckpointError, match="format 'one'"):
        load(saved)


def test_tensors_that_are_not_those_of_the_model(saved):
    rewrite(saved, lambda t: t.pop("3.weight"))
    with pytest.raises(CheckpointError, match="model.safetensors: 3.weight is missing"):
        load(saved)
    rewrite(saved, lambda t: t.update({"3.weight": torch.ones(255)}))
    with pytest.raises(CheckpointError, match=r"3.weight has shape \[255\], the model needs \[256\]"):
        load(saved)
    rewrite(saved, lambda t: t.update({"3.weight": torch.ones(256), "more": torch.ones(1)}))
    with pytest.raises(CheckpointError, match="Unexpected.*more"):
        load(saved)
    rewrite(saved, lambda t: (t.pop("more"), t.update({"1.scale": torch.ones(256, 2)})))
    with pytest.raises(CheckpointError, match="size mismatch for 1.scale"):
        load(saved)
    rewrite(saved, lambda t: t.update({"1.scale": torch.full((256, 1), torch.nan)}))
    with pytest.raises(CheckpointError, match="1: scale"):
        load(saved)


def test_descriptions_that_name_other_things(saved):
    edit(saved, lambda m: m["weights"]["tensors"].pop("3.weight"))
    with pytest.raises(CheckpointError, match="not as kdnative.json says: 3.weight"):
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


# -- describing --------------------------------------------------------------------------------------------------------


def test_inspect_plain(saved):
    found = inspect(saved)
    rows = {row["name"]: row for row in found["modules"]}
    assert list(rows) == ["0", "1", "3", "4.0", "5"] or set(rows) == {"0", "1", "3", "4.0", "5"}
    assert rows["1"] == {
        "name": "1", "kind": "kdnative.nn.Linear", "scheme": "w4a8-g64", "shape": [256, 64],
        "bytes": 256 * 32 + 256 * 4 + 256 * 4,
    }  # fmt: skip
    assert rows["0"]["scheme"] == "int8" and rows["0"]["shape"] == [100, 64] and rows["0"]["bytes"] == 6400 + 400
    assert rows["5"]["kind"] == "torch.nn.Linear" and rows["5"]["scheme"] is None
    totals = found["totals"]
    assert totals["bytes"] == sum(row["bytes"] for row in rows.values()) < totals["file_bytes"] == file_size(saved)
    assert found["model"] == "torch.nn.Sequential" and json.loads(json.dumps(found)) == found


def test_inspect_fused(tmp_path):
    save(convert_(bert(), {"*attention*": "w8a8", "*": "w4a8-g32"}).model, tmp_path / "m")
    rows = {row["name"]: row for row in inspect(tmp_path / "m")["modules"]}
    assert rows["bert.layers.1.qkv"]["scheme"] == "w8a8" and rows["bert.layers.1.qkv"]["shape"] == [192, 64]
    assert rows["bert.layers.0.ffn_in"]["scheme"] == "w4a8-g32" and rows["bert.layers.0.ffn_in"]["shape"] == [128, 64]
    assert rows["bert.embeddings.word"]["scheme"] == "int8" and rows["bert.pooler"]["scheme"] == "w4a8-g32"
    assert rows["classifier"]["scheme"] is None
    edit(tmp_path / "m", lambda m: m["modules"]["bert"].update(config={}))
    with pytest.raises(CheckpointError, match="do not agree"):
        inspect(tmp_path / "m")


def test_file_size_of_other_folders(tmp_path):
    save_file({"a": torch.zeros(10)}, tmp_path / "x.safetensors")
    save_file({"b": torch.zeros(20)}, tmp_path / "y.safetensors")
    sizes = [(tmp_path / n).stat().st_size for n in names(tmp_path)]
    assert file_size(tmp_path) == sum(sizes) and file_size(tmp_path / "x.safetensors") == sizes[0]


def test_embedding_dtype_survives(tmp_path):
    model = nn.Sequential(Embedding(10, 64, dtype=torch.bfloat16), nn.LayerNorm(64, dtype=torch.bfloat16))
    save(model, tmp_path / "m")
    assert load(tmp_path / "m")(torch.tensor([1])).dtype == torch.bfloat16
