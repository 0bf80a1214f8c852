"""The logits suite at the smallest vocabulary that it takes."""

from __future__ import annotations

import json
import sys

import pytest

from kdnative.bench import logits


@pytest.mark.skipif(sys.platform != "linux", reason="sizes come from /proc")
def test_the_suite(tmp_path, capsys):
    pytest.importorskip("accelerate", reason='needs pip install "kdnative[pipeline]"')
    sizes = ["--tokens", "512", "--resident", "256", "--trained", "128", "--width", "16", "--vocabulary", "16384"]
    assert logits.main([*sizes, "--json", str(tmp_path / "l.json")]) == 0
    found = json.loads((tmp_path / "l.json").read_text())
    for row in found["counted"]:
        assert row["tiles"] < 0.7 * row["logits"]
    (step,), (trained,) = found["resident"], found["trained"]
    for row in (step, trained):
        assert row["losses"]["tiles"] == pytest.approx(row["losses"]["logits"], rel=1e-4)
    assert step["tiles"] < step["logits"] and len(trained["losses"]["tiles"]) == 4
    assert "MB with logits" in capsys.readouterr().out


def test_a_vocabulary_of_which_logits_are_made():
    with pytest.raises(ValueError, match="vocabulary=100: logits are left out from 16384 classes on"):
        logits.main(["--vocabulary", "100"])


def test_a_process_that_fails_is_named():
    with pytest.raises(RuntimeError, match="measures a step failed with 1(.|\n)*KeyError"):
        logits._child({"kind": "step", "threads": 1})
