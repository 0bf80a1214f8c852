"""Soft labels: right rows, complete files, and a refusal for everything that does not match."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kdnative.data import Batches, TokenizedDataset
from kdnative.distill import SoftLabelMismatch, SoftLabels, TopK
from kdnative.distill.cache import _digest, weights_hash
from kdnative.files import write_atomically
from tests.distill.tiny import model, tokens

COMPUTE = {"device": "cpu", "batch_size": 7}


def test_rows_are_those_of_the_examples():
    data, teacher = tokens(23), model(0, classes=3)
    soft = SoftLabels.compute(teacher, data, **COMPUTE)
    teacher.eval()
    with torch.no_grad():
        for i in range(23):
            row = torch.from_numpy(data[i].astype(np.int64))[None]
            expected = teacher(row, torch.ones_like(row)).logits[0]
            torch.testing.assert_close(soft[torch.tensor([i])][0], expected, rtol=1e-5, atol=1e-6)
    assert len(soft) == 23 and soft.classes == 3


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 2, "temperature": 3.0}, {"top_k": 4}])
def test_round_trip(tmp_path, options):
    data, teacher = tokens(10), model(0, classes=4)
    soft = SoftLabels.compute(teacher, data, **COMPUTE, **options)
    soft.save(tmp_path / "deep" / "soft.safetensors")
    back = SoftLabels.load(tmp_path / "deep" / "soft.safetensors", model=teacher, dataset=data)
    some = torch.tensor([3, 0, 9])
    for a, b in zip(
        torch.utils._pytree.tree_leaves(soft[some]), torch.utils._pytree.tree_leaves(back[some]), strict=True
    ):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    assert (back.classes, back.settings, back.teacher, back.data) == (4, soft.settings, soft.teacher, soft.data)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["soft.safetensors"], "no temporary file stays"


def test_top_k_holds_the_largest_logits_and_the_rest():
    data, teacher = tokens(10), model(0, classes=5)
    full = SoftLabels.compute(teacher, data, **COMPUTE).target.double()
    top = SoftLabels.compute(teacher, data, top_k=2, temperature=2.0, **COMPUTE).target
    assert isinstance(top, TopK)
    ordered = full.sort(-1, descending=True).values
    torch.testing.assert_close(top.values.double(), ordered[:, :2])
    torch.testing.assert_close(full.gather(1, top.indices), ordered[:, :2])
    torch.testing.assert_close(top.rest.double(), (ordered[:, 2:] / 2).exp().sum(-1).log())


def other_teacher(data, teacher):
    with torch.no_grad():
        teacher.classifier.bias[0] += 1e-6
    return {"model": teacher, "dataset": data}


def other_text(data, teacher):
    return {"model": teacher, "dataset": tokens(10, seed=1)}


def other_tokens(data, teacher):
    ids = data.ids.copy()
    ids[5] = 1 + ids[5] % 30
    return {"model": teacher, "dataset": TokenizedDataset(ids, data.offsets, data.labels, 0, data.source)}


@pytest.mark.parametrize(
    ("change", "message"), [(other_teacher, "teacher's weights"), (other_text, "data"), (other_tokens, "tokenisation")]
)
def test_mismatch_is_refused(tmp_path, change, message):
    data, teacher = tokens(10), model(0)
    path = tmp_path / "soft.safetensors"
    SoftLabels.compute(teacher, data, **COMPUTE).save(path)
    with pytest.raises(SoftLabelMismatch, match=message):
        SoftLabels.load(path, **change(data, teacher))


def test_files_that_are_no_soft_labels(tmp_path):
    path = tmp_path / "soft.safetensors"
    with pytest.raises(FileNotFoundError, match="no soft labels here"):
        SoftLabels.load(path)
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(SoftLabelMismatch, match="not a readable"):
        SoftLabels.load(path)
    save_file({"logits": torch.zeros(2, 2)}, path)
    with pytest.raises(SoftLabelMismatch, match="not soft labels in this version's format"):
        SoftLabels.load(path)
    save_file({"logits": torch.zeros(2, 2)}, path, {"kdnative.soft_labels": json.dumps({"format": 99})})
    with pytest.raises(SoftLabelMismatch, match="not soft labels in this version's format"):
        SoftLabels.load(path)


@pytest.mark.parametrize("options", [{}, {"top_k": 2, "temperature": 3.0}])
def test_every_bit_counts(tmp_path, options):
    path = tmp_path / "soft.safetensors"
    SoftLabels.compute(model(0, classes=4), tokens(6), **COMPUTE, **options).save(path)
    saved = path.read_bytes()
    for place in range(len(saved)):
        changed = bytearray(saved)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(SoftLabelMismatch, match="soft.safetensors: .*delete the file to compute them again"):
            SoftLabels.load(path)
    for length in (0, 7, 8, 100, len(saved) - 1):
        path.write_bytes(saved[:length])
        with pytest.raises(SoftLabelMismatch, match="not a readable safetensors file"):
            SoftLabels.load(path)


def test_the_same_labels_are_the_same_file(tmp_path):
    """The digest of a stage of the pipeline is one of files."""
    for name in "abcdefgh":
        SoftLabels.compute(model(0), tokens(6), **COMPUTE).save(tmp_path / name)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


VALID = {"format": 1, "classes": 3, "source": "s", "data": "d", "teacher": "t", "settings": {"temperature": 2.0}}
TOP = {"values": torch.zeros(2, 2), "indices": torch.zeros(2, 2, dtype=torch.int64), "rest": torch.zeros(2)}


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        *(({key: None}, {"logits": torch.zeros(2, 3)}) for key in VALID),
        ({"classes": 4}, {"logits": torch.zeros(2, 3)}),
        ({"settings": {"temperature": None}}, TOP),
        ({"settings": []}, TOP),
        ({}, {}),
        ({}, {"logits": torch.zeros(())}),
        ({}, {"logits": torch.zeros(2, 3, dtype=torch.int64)}),
        ({}, {"logits": torch.zeros(2, 3), "values": torch.zeros(2, 3)}),
        ({}, {"other": torch.zeros(2, 3)}),
        ({}, {key: value for key, value in TOP.items() if key != "indices"}),
        ({}, {**TOP, "indices": torch.zeros(2, 3, dtype=torch.int64)}),
        ({}, {**TOP, "rest": torch.zeros(3)}),
        ({}, {**TOP, "values": torch.zeros(2)}),
    ],
)
def test_files_that_vouch_for_what_is_no_soft_labels(tmp_path, change, tensors):
    path = tmp_path / "soft.safetensors"
    write(path, VALID, {"logits": torch.zeros(2, 3)})
    assert SoftLabels.load(path).classes == 3
    write(path, VALID, TOP)
    assert SoftLabels.load(path).target.temperature == 2.0
    write(path, {**VALID, **change}, tensors)
    with pytest.raises(SoftLabelMismatch, match="delete the file to compute them again"):
        SoftLabels.load(path)


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "null", "[" * 3000, '"a"'])
def test_manifests_that_are_none(tmp_path, text):
    save_file({"logits": torch.zeros(2, 2)}, tmp_path / "soft.safetensors", {"kdnative.soft_labels": text})
    with pytest.raises(SoftLabelMismatch, match="not soft labels in this version's format"):
        SoftLabels.load(tmp_path / "soft.safetensors")


def write(path, manifest, tensors):
    own = {**manifest, "sha256": _digest(manifest, tensors)}
    save_file(tensors, path, {"kdnative.soft_labels": json.dumps(own)})


def test_teacher_that_overflows_is_refused():
    teacher = model(0)
    with torch.no_grad():
        teacher.embedding.weight[7] = torch.inf
    data = tokens(30)
    with pytest.raises(ValueError, match="are not finite"):
        SoftLabels.compute(teacher, data, **COMPUTE)


def test_weights_hash_sees_every_bit_and_nothing_else():
    teacher = model(0)
    before = weights_hash(teacher)
    assert before == weights_hash(model(0))
    assert before != weights_hash(model(0).bfloat16())
    teacher.train()
    assert before == weights_hash(teacher)
    with torch.no_grad():
        teacher.hidden.weight[0, 0] = -teacher.hidden.weight[0, 0]
    assert before != weights_hash(teacher)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(name):
        with open(name, "w") as f:
            f.write("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_order_is_fixed_whatever_the_batches():
    data, teacher = tokens(23), model(0)
    a = SoftLabels.compute(teacher, data, **COMPUTE)
    b = SoftLabels.compute(teacher, data, **COMPUTE)
    assert torch.equal(a.target, b.target)
    assert sorted(np.concatenate(Batches(data, 7).order(0)).tolist()) == list(range(23))
