"""Networks of convolutions through every stage that changes them: compressed, pruned, recovered and converted."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import kdnative
from kdnative.convert import restore_networks_
from kdnative.nn import ConvNet
from kdnative.pipeline import PipelineError, RecipeError, RunFolder, load_recipe
from kdnative.pipeline.kinds.pictures import PICTURES
from kdnative.pipeline.stages import training
from tests.pipeline.images.conftest import write
from tests.pipeline.images.test_run import changed


@pytest.fixture(scope="module")
def recipe(shapes) -> dict:
    found = copy.deepcopy(shapes)
    few = found["distil"]
    found |= {"train_baseline": None, "compress_teacher": {"scheme": "w8a8"}}
    found["train_teacher"] |= {"epochs": 1, "max_steps": 2, "fit_temperature": False}
    found["distil"] = {**few, "soft_loss": "dist"}
    found["prune"] = {**few, "macs": 0.6, "soft_loss": "dkd", "calibration_batches": 2, "max_steps": 1}
    found["recover"] = {**few, "max_steps": 2}
    return found


@pytest.fixture(scope="module")
def terms() -> list[tuple[str, str]]:
    return []


@pytest.fixture(scope="module")
def run(recipe, terms, tmp_path_factory) -> RunFolder:
    """Up to the converted student; the terms of each stage's loss on the way."""
    place = tmp_path_factory.mktemp("networks")
    own, threads = training.distillation_loss, torch.get_num_threads()

    def noted(context, *arguments):
        loss = own(context, *arguments)
        terms.extend((context.stage, type(term).__name__) for term in loss)
        return loss

    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KDNATIVE_STORE", str(place / "store"))
            patch.setenv("KDNATIVE_CACHE", str(place / "cache"))
            patch.setattr("kdnative.pipeline.stages.student.distillation_loss", noted)
            path, runs = write(place / "r.yaml", recipe), place / "runs"
            return RunFolder(kdnative.run(path, runs=runs, progress=False, quiet=True, until="convert"))
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_teacher_that_labels_is_native(run):
    model = kdnative.load(run.output("compress_teacher") / "model")
    assert isinstance(model, ConvNet) and model.preprocess.size == (32, 32)
    assert run.metrics("compress_teacher")["validation"]["agreement"] >= 0.5


def test_students_learn_by_the_losses_of_their_stages(run, terms):
    assert ("distil", "DISTLoss") in terms and ("prune", "DKDLoss") in terms and ("recover", "SoftLabelLoss") in terms


def test_channels_are_gone_and_the_model_is_read_again(run, pictures):
    before, after = (PICTURES.load_saved(run.output(stage) / "model") for stage in ("distil", "prune"))
    assert sum(p.numel() for p in after.parameters()) < sum(p.numel() for p in before.parameters())
    figures = run.metrics("prune")
    assert figures["parameters"] < figures["parameters_before"]
    assert any(row["channels_after"] < row["channels_before"] for row in figures["pruning"])
    assert torch.isfinite(after(pictures)).all()


def test_the_converted_student_is_the_network_that_recover_trained(run, pictures):
    trained = PICTURES.load_saved(run.output("recover") / "model")
    assert restore_networks_(trained, run.output("recover") / "networks.safetensors") == [""]
    assert "features.0.0" in run.metrics("recover")["quantized_layers"]
    with torch.no_grad():
        assert torch.equal(kdnative.load(run.output("convert") / "model")(pictures), trained(pictures))


def test_the_student_is_read_without_torchvision(run, pictures, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm")]:
        monkeypatch.setitem(sys.modules, name, None)
    model = kdnative.load(run.output("convert") / "model")
    assert isinstance(model, ConvNet) and model.classes == ("cross", "disc", "square")
    assert model(pictures).shape == (12, 3)


def test_networks_of_another_model_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="does not hold networks of this model: the model has no module"):
        restore_networks_(nn.Sequential(), _renamed(run.output("recover") / "networks.safetensors", tmp_path))
    (tmp_path / "damaged").write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match="does not hold networks of this model"):
        restore_networks_(nn.Sequential(), tmp_path / "damaged")


def _renamed(path: Path, folder: Path) -> Path:
    """The same networks, of modules of another name."""
    found = folder / "renamed"
    found.write_bytes(path.read_bytes().replace(rb"\"modules\": [\"\"]", rb"\"modules\":[\"a\"]"))
    return found


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("prune.macs", None, "prune does not say how much of the network to keep: give prune.macs or prune.latency"),
        ("prune.latency", 0.5, "give prune.macs or prune.latency"),
        ("prune.heads", 0.5, "prune.heads is 0.5, but it is for text encoders"),
        ("recover.clip", "learn", "recover.clip is 'learn', but recipes for pictures don't support it"),
        ("convert", {"schemes": {"*": "w8a8"}}, "recover trains the network in"),
        ("compress_teacher.top_k", 2, "distil.soft_loss is 'dist', which needs the logits of all classes"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(recipe, tmp_path, key, value, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(write(tmp_path / "r.yaml", changed(recipe, key, value)))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("prune.macs", 0.001, r"prune: macs=0.001: 0.\d+ is the smallest share that this model can reach"),
        ("recover.schemes", "w4a8-g64", "recover: .*there is no convolution to train"),
        ("compress_teacher.prune", {"macs": 0.001}, "compress_teacher.prune: macs=0.001"),
    ],
)
def test_what_a_network_cannot_be_is_known_before_training(recipe, tmp_path, key, value, words):
    with pytest.raises(PipelineError, match=words):
        path = write(tmp_path / "r.yaml", changed(recipe, key, value))
        kdnative.pipeline.check(load_recipe(path), runs=tmp_path / "runs")


def test_a_pattern_on_convolutions_is_not_impossible(recipe, tmp_path):
    """Their ranges are known once there are pictures, and a rehearsal has none."""
    patterns = {"features.*": "w8a8", "*": "w8a8"}
    recipe = changed(changed(recipe, "recover", None), "convert", {"schemes": patterns})
    kdnative.pipeline.check(load_recipe(write(tmp_path / "r.yaml", recipe)), runs=tmp_path / "runs")
