"""Checkpoints that somebody has made to do harm: refused in words, in little time and memory."""

import json
import os
import re
import resource
import select
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdnative import cli
from kdnative.checkpoint import CheckpointError, inspect, load, manifest
from tests.checkpoint.attacks import KINDS, SIZES
from tests.checkpoints import edit, revouch, weights_file
from tests.fuzz.seeds import make_seeds

SECONDS, MEGABYTES = 5.0, 300  # of processor time, which a busy machine doubles; above the process after its imports


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    pytest.importorskip("transformers")
    return make_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.fixture
def hostile(seeds, tmp_path):
    """A folder with a changed checkpoint of a kind."""

    def make(kind, change=None):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        seeds[kind].checkpoint.write(tmp_path / "m")
        if change is not None:
            edit(tmp_path / "m", change)
        return tmp_path / "m"

    return make


def measured(*calls):
    """What each call says in a process of their own, with seconds of processor time, and megabytes that they took."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        before, results = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
        for call in calls:
            begin = time.process_time()
            try:
                call()
                said = "accepted"
            except CheckpointError as error:
                said = f"refused: {error}"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            results.append([said, time.process_time() - begin, most / 1024])
        os.write(writer, json.dumps(results).encode())
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 60.0)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    assert data, f"no answer: {'a hang' if not ready else f'status {status}'}"
    return json.loads(data)


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("attack", SIZES)
def test_sizes_that_only_the_description_has(hostile, seeds, attack, into):
    kind, change = SIZES[attack]
    folder = hostile(kind, change)
    target = seeds[kind].fresh() if into else None
    loaded, inspected = measured(lambda: load(folder, into=target), lambda: inspect(folder))
    assert loaded[0].startswith("refused: ") or (into and "configuration" in attack), loaded
    assert inspected[0].startswith("refused: ") or inspected[0] == "accepted", inspected
    for said, seconds, megabytes in (loaded, inspected):
        assert seconds < SECONDS and megabytes < MEGABYTES, (said, seconds, megabytes)


@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("attack", KINDS)
def test_values_of_the_wrong_kind(hostile, seeds, attack, into):
    kind, change = KINDS[attack]
    folder = hostile(kind, change)
    with pytest.raises(CheckpointError) as error:
        load(folder, into=seeds[kind].fresh() if into else None)
    assert str(folder) in str(error.value) and len(str(error.value)) < 1000


def test_descriptions_beyond_every_size(hostile):
    folder = hostile("w8a8")
    with open(folder / "kdnative.json", "r+") as file:
        file.truncate(20 * 2**30)  # which takes no place on the disk
    for said, seconds, megabytes in measured(lambda: load(folder), lambda: inspect(folder)):
        assert "kdnative.json: damaged: it is larger than 16,777,216 bytes" in said
        assert seconds < SECONDS and megabytes < MEGABYTES


@pytest.mark.parametrize("depth", [900, 960, 1000, 100_000])
def test_descriptions_nested_deeply(hostile, depth):
    folder = hostile("embedding")
    text = (folder / "kdnative.json").read_text()
    (folder / "kdnative.json").write_text(text.replace("{", '{"x": ' + "[" * depth + "]" * depth + ", ", 1))
    for call in (load, inspect):
        with pytest.raises(CheckpointError, match="kdnative.json: "):
            call(folder)


# -- values of tensors -------------------------------------------------------------------------------------------------


def rewrite(folder, change):
    tensors = load_file(weights_file(folder))
    change(tensors)
    save_file(tensors, weights_file(folder))
    revouch(folder)


def filled(pattern, value):
    def change(tensors):
        names = [name for name in tensors if re.search(pattern, name)]
        assert names
        for name in names:
            tensors[name] = torch.full_like(tensors[name], value)

    return change


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "kind, pattern, value, words",
    [
        *(("embedding", r"^0\.scale", v, "0: scale holds zero, negative, infinite or") for v in (NAN, INF, -1.0, 0.0)),
        ("embedding", r"^0\.qweight", -128, "0: qweight holds values from -128 to -128; 8 bits allow -127"),
        *(("bert", r"word\.scale", v, "embeddings.word: scale holds zero, negative") for v in (NAN, INF, -1.0)),
        ("bert", r"word\.qweight", -128, "embeddings.word: qweight holds values from -128"),
        *(("bert", rf"{norm}\.{part}", v, rf"{norm}.*{part} holds NaN or infinite values")
          for norm, part, v in (("embeddings.norm", "weight", NAN), ("attention_norm", "bias", INF))),
        ("modernbert", r"final_norm\.weight", NAN, "final_norm: weight holds NaN or infinite values"),
        ("mpnet", r"relative_bias\.weight", INF, "relative_bias: weight holds NaN or infinite values"),
        *((kind, r"\.scale", v, "scale holds zero, negative, infinite or NaN values")
          for kind in ("w4a8-asym", "w4a8-int", "4x1", "mask", "w8a16", "bert") for v in (NAN, 0.0, -1.0)),
        ("w4a8-int", r"group_scale", 18, "group_scale holds 18 to 18; allowed are 1 to 17"),
        ("w4a8-asym", r"zero", 127, "zero holds values from 127"),
        ("w8a16", r"^0\.bias", NAN, "the bias holds NaN or infinite values"),
        ("2:4", r"^0\.qweight", 5, "2:4"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("into", [False, True])
def test_values_that_no_layer_has(hostile, seeds, kind, pattern, value, words, into):
    folder = hostile(kind)
    rewrite(folder, filled(pattern, value))
    with pytest.raises(CheckpointError, match=words):
        load(folder, into=seeds[kind].fresh() if into else None)


# -- texts -------------------------------------------------------------------------------------------------------------


def test_names_are_never_printed_raw(hostile, capsys, seeds):
    title, surrogate = "\x1b]0;owned\x07", "\ud800\x9b31m"
    relu = {"class": f"torch.nn.{title}", "config": {}}
    folder = hostile("w8a8", lambda m: m["modules"].update({title: relu, surrogate: relu}))
    with pytest.raises(CheckpointError, match=r"torch.nn.\\x1b]0;owned\\x07"):
        load(folder)
    folder = hostile("w8a8", lambda m: m["modules"]["3"].update({"class": f"{title}{surrogate}"}))
    assert cli.main(["inspect", str(folder)]) == 0
    assert r"\x1b]0;owned\x07\ud800\x9b31m" in capsys.readouterr().out
    assert cli.main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modules"][2]["kind"] == f"{title}{surrogate}"
    shutil.rmtree(folder)
    assert cli.main(["inspect", f"{folder}{title}"]) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_a_description_that_would_be_refused_is_not_written(tmp_path, monkeypatch):
    from kdnative.checkpoint import save

    monkeypatch.setattr(manifest, "MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="their description takes .* bytes; 1,000 are allowed"):
        save(torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(20))), tmp_path / "m")
    assert not (tmp_path / "m").exists()
