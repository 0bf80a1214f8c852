"""`kdnative convert --calibrate FOLDER`: models of pictures, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import kdnative
from kdnative.cli import main
from kdnative.nn import ConvNet, ImageInput
from kdnative.pipeline.calibration_pictures import two_parts_of_pictures
from kdnative.pipeline.kinds.pictures import PICTURES
from tests.cnn.networks import depthwise


@pytest.fixture
def pictures(shapes) -> Path:
    return Path(shapes["data"]["source"])


def test_a_model_of_a_run_becomes_a_native_one(capsys, finished_images, pictures, tmp_path):
    source, out = finished_images.output("distil") / "model", tmp_path / "out"
    assert main(["convert", str(source), str(out), "--calibrate", str(pictures), "--texts", "24"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"loss on 24 other pictures of .*: .*share of answers that changed", printed)
    assert "into=" not in printed
    native = kdnative.load(out)
    assert isinstance(native, ConvNet) and native.classes == ("cross", "disc", "square")
    model, files = PICTURES.load_saved(source), two_parts_of_pictures(pictures, 24)[0]
    kdnative.convert_(model, calibration=[model.preprocess(files)])
    x = model.preprocess(files[:3])
    assert torch.equal(native(x), model(x))


def test_a_checkpoint_of_layers_and_a_method(finished_images, pictures, tmp_path):
    model = nn.Sequential(depthwise(), nn.Identity()).eval()
    model.preprocess = ImageInput((20, 20), classes=("a", "b"))
    kdnative.save(model, tmp_path / "in")
    arguments = ["convert", str(tmp_path / "in"), str(tmp_path / "out"), "--calibrate", str(pictures)]
    assert main([*arguments, "--method", "minmax"]) == 0
    native = kdnative.load(tmp_path / "out")
    assert isinstance(native, ConvNet) and native.preprocess == model.preprocess


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--calibrate", "PICTURES", "--column", "text"], "--column text is given, but .* is a folder"),
        (["--method", "mse"], "--method mse is for convolutional networks and needs pictures: add --calibrate FOLDER"),
        (["--calibrate", "EMPTY"], "no pictures \\(.*png"),
        (["--calibrate", "PICTURES"], "the model has no image preprocessing"),
    ],
)
def test_what_is_refused(capsys, pictures, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    kdnative.save(depthwise(), tmp_path / "in")
    places = {"PICTURES": str(pictures), "EMPTY": str(tmp_path / "empty")}
    given = [places.get(argument, argument) for argument in arguments]
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out"), *given]) == 1
    assert re.search(words, capsys.readouterr().err) and not (tmp_path / "out").exists()
