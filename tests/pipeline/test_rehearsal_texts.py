"""What tokenizers and the classes of the data can't give a recipe: refused, or said, before any stage."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import kdnative
from kdnative.pipeline import PipelineError, load_recipe
from kdnative.pipeline.stages import Shared
from tests.pipeline.conftest import changed, write_model, write_recipe
from tests.pipeline.test_rehearsal import rehearsed


def without_mask(tiny, folder: Path) -> str:
    """The miniature's model with a tokenizer that can't hide a token."""
    shutil.copytree(tiny["teacher"]["source"], folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            (folder / name).write_text(json.dumps({**content, "mask_token": None}), encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("stage", ["train_teacher", "train_baseline", "distil", "prune", "recover"])
def test_hidden_tokens_need_a_mask_token(tiny, tmp_path, stage):
    recipe = changed(tiny, teacher={"source": without_mask(tiny, tmp_path / "model")}, recover={"schemes": "w8a8"})
    assert rehearsed(recipe, tmp_path) == []
    path = write_recipe(tmp_path / "r.yaml", changed(recipe, **{stage: {"mask_tokens": 0.2}}))
    with pytest.raises(PipelineError, match=rf"^{stage}\.mask_tokens: the tokenizer of .*model has no mask token"):
        kdnative.run(path, runs=tmp_path / "runs", progress=False, until="train_teacher")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("settings", [{"hidden_weight": 0.5}, {"hidden_weight": 0.0, "mask_tokens": 0.2}])
def test_teacher_and_student_that_cut_texts_differently(tiny, tmp_path, settings):
    student = write_model(tmp_path / "student", layers=2)
    words = (student / "vocab.txt").read_text(encoding="utf-8")
    for name in ("vocab.txt", "tokenizer.json"):
        text = (student / name).read_text(encoding="utf-8")
        (student / name).write_text(re.sub(r"film|plot|cast|scene", lambda word: f"{word[0]}s", text), encoding="utf-8")
    assert "films" not in words
    alone = {"hidden_weight": 0.0, "mask_tokens": 0.0}
    recipe = changed(tiny, student={"source": str(student), "layers": None}, prune=None, distil=alone, recover=alone)
    rehearsed(recipe, tmp_path)
    with pytest.raises(PipelineError, match="teacher's vocabulary lacks 4 of the student's"):
        rehearsed(changed(recipe, recover=settings), tmp_path)


def test_classes_without_an_example_to_learn_from(tiny, tmp_path):
    """Every figure of such a run is right, so it goes on; the log says what they mean."""
    rows = [f"{text}\t{text.split()[-1]}\n" for text in ("a film", "a plot", "the cast", "the plot", "was film")]
    for name, lines in {"train": rows[:2], "validation": rows[:2], "test": rows}.items():
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(lines), encoding="utf-8")
    with pytest.raises(kdnative.data.DataError, match="does not occur in the training data"):  # files of their own
        kdnative.data.load_dataset(tmp_path)
    rare = "".join(f"the plot of scene {i}\trare{i}\n" for i in range(12))
    data = tmp_path / "data.tsv"
    data.write_text(Path(tiny["data"]["source"]).read_text(encoding="utf-8") + rare, encoding="utf-8")
    recipe = changed(tiny, data={"source": str(data)}, train_teacher={"epochs": 0})
    path = write_recipe(tmp_path / "r.yaml", recipe)
    folder = kdnative.run(path, runs=tmp_path / "runs", progress=False, until="train_teacher")
    counts = Shared(load_recipe(path)).data
    missing = [name for name in counts.labels if not counts.train.counts[name]]
    assert missing, "the test has lost its object: the hash puts every class into the training split"
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert f"the training split has no example of {len(missing)} of the 14 classes ({missing[0]!r}" in log
    assert rehearsed(changed(tiny, recover={"schemes": "w8a8"}), tmp_path) == []


def test_training_for_4_bits_is_advised_against(tiny, tmp_path):
    (note,) = rehearsed(changed(tiny, recover={"schemes": {"*.dense": "w4a8-g64", "*": "w8a8"}}), tmp_path)
    assert note.startswith("recover trains for w4a8-g64: at 4 bits, GPTQ alone usually loses less")
    assert rehearsed(changed(tiny, recover=None), tmp_path) == []
