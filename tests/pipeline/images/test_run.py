"""A run about pictures, from the folder to the report, and what is refused before anything is trained."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.evaluate import predict
from kdnative.nn import ConvNet
from kdnative.pipeline import PipelineError, RecipeError, load_recipe, networks
from kdnative.pipeline.kinds.pictures import PICTURES
from kdnative.pipeline.stages import Shared
from tests.pipeline.images.conftest import write


def changed(recipe: dict, key: str, value) -> dict:
    found = copy.deepcopy(recipe)
    *names, last = key.split(".")
    place = found
    for name in names:
        place = place.setdefault(name, {})
    place[last] = value
    return found


def test_every_stage_ran_and_the_summary_tells_of_pictures(finished_images):
    summary = json.loads((finished_images.path / "summary.json").read_text())
    assert [row["key"] for row in summary["rows"]] == ["teacher", "baseline", "distilled", "native"]
    assert summary["data"]["labels"] == ["cross", "disc", "square"] and summary["data"]["things"] == "pictures"
    assert summary["data"]["sizes"] == {"labelled": 36, "unlabelled": 0, "validation": 12, "test": 12}
    assert summary["case"]["tokens"] == 32 and summary["case"]["unit"] == "pixels"
    assert len(summary["corruptions"]) == 10 and len(summary["pictures"]) == 12
    assert all(row["image"].startswith("data:image/jpeg;base64,") for row in summary["pictures"])
    text = (finished_images.path / "summary.txt").read_text()
    assert "pictures: 36 labelled" in text and "batch 1 x 32 pixels" in text


def test_the_whole_student_is_native(finished_images):
    assert type(kdnative.load(finished_images.output("convert") / "model")) is ConvNet


def test_the_temperature_of_the_teacher_is_fitted(finished_images):
    assert finished_images.metrics("train_teacher")["calibration"]["temperature"] > 0


def test_the_report_shows_pictures_and_corruptions(finished_images):
    page = (finished_images.path / "report.html").read_text()
    assert page.count('class="thumbnail"') >= 12 and "Noise, blur and JPEG" in page and "img-src data:" in page


def test_a_saved_model_answers_as_the_trained_one(finished_images, shapes):
    """The checkpoint holds plain tensors; its network and what it reads are said beside it."""
    folder = finished_images.output("distil") / "model"
    told = json.loads((folder / networks.DESCRIPTION).read_text())
    assert told == {
        "library": "torchvision",
        "name": "mobilenet_v2",
        "width": 0.25,
        "classes": ["cross", "disc", "square"],
    }
    model = PICTURES.load_saved(folder)
    assert model.preprocess.size == (32, 32) and model.classes == ("cross", "disc", "square")
    shared = Shared(load_recipe(finished_images.path / "recipe.yaml"))
    test = PICTURES.encode(shared, "", shared.data.test)
    row = json.loads((finished_images.path / "summary.json").read_text())["rows"][2]
    found = predict(model, test, device="cpu")
    file = Path(shapes["data"]["source"]) / shared.data.test[0].id
    with torch.no_grad():  # from the file, without the pipeline
        assert torch.allclose(model(model.preprocess(file))[0], found.logits[0], atol=1e-4)
    assert float((found.classes == found.labels).double().mean()) == pytest.approx(row["accuracy"]["value"])


def test_a_model_of_a_run_is_the_teacher_of_the_next(finished_images, shapes, tmp_path):
    """Its head stays where the classes are the same, and it may be said to be fine-tuned."""
    folder = str(finished_images.output("train_teacher") / "model")
    recipe = changed(changed(shapes, "teacher", {"source": folder, "fine_tuned": True}), "train_teacher", {})
    assert str(kdnative.pipeline.check(load_recipe(write(tmp_path / "r.yaml", recipe)), runs=tmp_path / "runs"))
    with pytest.raises(PipelineError, match="no head for the data's classes"):
        other = changed(recipe, "teacher", {"source": "torchvision:shufflenet_v2_x0_5", "fine_tuned": True})
        kdnative.pipeline.check(load_recipe(write(tmp_path / "r.yaml", other)), runs=tmp_path / "runs")


def test_a_training_that_is_cut_off_ends_as_one_that_is_not(finished_images, shapes, tmp_path, monkeypatch):
    """Pictures are changed by (seed, epoch, number) alone: the resumed run sees what the whole one saw."""
    from kdnative.pipeline.stages import training

    class Clock(training._Clock):
        def on_step(self, progress):
            if self.context.stage == "train_teacher" and progress.step == 4:
                raise KeyboardInterrupt

    torch.set_num_threads(1)
    path, runs = write(tmp_path / "r.yaml", shapes), tmp_path / "runs"
    with monkeypatch.context() as patch:
        patch.setattr(training, "_Clock", Clock)
        with pytest.raises(KeyboardInterrupt):
            kdnative.run(path, runs=runs, progress=False, quiet=True)
    kdnative.run(path, runs=runs, progress=False, quiet=True, resume=True, until="train_teacher")
    assert "continues from its last saved step" in (runs / "shapes" / "log.txt").read_text()
    places = (run / "stages" / "train_teacher" / "model" for run in (finished_images.path, runs / "shapes"))
    one, other = map(PICTURES.load_saved, places)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.max_length", 64, "data.max_length is 64, but it is for texts"),
        ("distil.hidden_weight", 0.5, "distil.hidden_weight is 0.5, but it is for text encoders"),
        ("calibrate", {}, "calibrate is given, but recipes for pictures don't support it: set calibrate: null"),
        ("task", "text-classification", "data.images is given, but the task text-classification reads texts"),
        ("data.images.size", 0, "data.images.size"),
        ("data.images.augment.mixup", -1.0, "data.images.augment.mixup"),
    ],
)
def test_keys_that_mean_nothing_are_refused(shapes, tmp_path, key, value, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe(write(tmp_path / "r.yaml", changed(shapes, key, value)))


def test_models_that_cannot_work_are_refused_before_training(shapes, tmp_path):
    def refused(key, value):
        recipe = write(tmp_path / "r.yaml", changed(shapes, key, value))
        with pytest.raises(PipelineError) as error:
            kdnative.run(recipe, runs=tmp_path / "runs", progress=False)
        assert not (tmp_path / "runs" / "shapes" / "recipe.yaml").exists()
        return str(error.value)

    assert "torchvision has no network 'nothing' for pictures" in refused("teacher.source", "torchvision:nothing")
    assert "no such folder or file" in refused("teacher.weights", str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    assert "is not a readable weight file" in refused("teacher.weights", str(tmp_path / "text.pth"))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    assert "give the weights of the same network" in refused("teacher.weights", str(tmp_path / "other.pth"))
    assert "can't read pictures of 32 x 32 pixels (data.images.size)" in refused(
        "teacher.source", "torchvision:alexnet"
    )
    assert "leave width out" in refused("teacher.width", 0.5)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("PIL.Image", "a recipe for pictures needs the package 'PIL', which is not installed"),
        ("timm", "student.source: timm:resnet18 needs the package 'timm', which is not installed"),
    ],
)
def test_a_missing_package_is_known_before_training(shapes, tmp_path, monkeypatch, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    recipe = write(tmp_path / "r.yaml", changed(shapes, "student", {"source": "timm:resnet18"}))
    with pytest.raises((ImportError, PipelineError), match=f'{words}: pip install "kdnative\\[vision\\]"'):
        kdnative.run(recipe, runs=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs" / "shapes" / "recipe.yaml").exists()


def test_a_broken_picture_is_found_before_training(shapes, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(shapes["data"]["source"], folder)
    (folder / "disc" / "disc_003.png").write_bytes((folder / "disc" / "disc_003.png").read_bytes()[:60])
    with pytest.raises(kdnative.data.DataError, match=r"1 of 60 pictures can't be read(.|\n)*disc_003\.png"):
        recipe = changed(shapes, "data.source", str(folder))
        kdnative.run(write(tmp_path / "r.yaml", recipe), runs=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
