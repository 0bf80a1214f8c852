"""What calibration gives, as a file; files of strangers."""

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kdnative.quantize import CalibratedLayer, Calibration, quantize_weight
from tests.quantize.recording import assert_same_weights

KEY = "kdnative_calibration"


def layer(name, scheme, error=0.25):
    return CalibratedLayer(name, scheme, "gptq", 40, 2, error, None if error is None else error / 2, "ab12")


def made():
    schemes = {"": "w8a8", "a.b": "w4a8-g32", "c": "w2a16-g32-asym", "d": "w4a8-g32-int"}
    weights = {name: quantize_weight(torch.randn(7, 64), scheme) for name, scheme in schemes.items()}
    weights["e"] = quantize_weight(torch.randn(5, 13), "w8a8").changed(input_scale=torch.rand(13) + 0.5)
    return Calibration(weights, [layer(n, schemes.get(n, "w8a8"), None if n == "c" else 0.25) for n in weights], 1234)


def test_saved_and_loaded(tmp_path):
    calibration = made()
    calibration.save(tmp_path / "deep" / "file")
    found = Calibration.load(tmp_path / "deep" / "file")
    assert_same_weights(found, calibration)
    assert found.rows == calibration.rows and found.method == "gptq"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
    assert (tmp_path / "deep" / "file").stat().st_size < 8000, "codes are packed"
    assert repr(found) == "<Calibration of 5 layers, gptq>" and len(str(found).splitlines()) == 6


def test_one_row_for_each_weight():
    with pytest.raises(ValueError, match="one row for each weight"):
        Calibration({"a": quantize_weight(torch.randn(2, 4), "w8a8")}, [layer("b", "w8a8")])


def write(path, change=None, drop=None, **tensors):
    """A saved calibration whose description or tensors were changed."""
    made().save(path)
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        described = json.loads(file.metadata()[KEY])
    if change is not None:
        described = change(described) or described
    held = {name: tensor for name, tensor in (held | tensors).items() if name != drop}
    save_file(held, path, {KEY: described if isinstance(described, str) else json.dumps(described)})
    return path


def of_first(**values):
    return lambda described: described["layers"][0].update(values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(format=2), "its format is 2"),
        (lambda d: d.update(layers={}), "its layers are not a list"),
        (lambda d: d.pop("extra") and None, "extra"),
        (lambda d: d.update(extra={"model": "0"}), "extra is"),
        (lambda d: d["layers"].append(d["layers"][0]), "two layers named ''"),
        (lambda d: d["layers"].pop() and None, "tensors that belong to no layer"),
        (lambda d: [d], "damaged"),
        (lambda d: "[" * 100_000, "damaged"),
        (of_first(name=3), "name of a layer is a int"),
        (of_first(rows=True), "rows of a layer is a bool"),
        (of_first(error_after=-1.0), "error_after of a layer is -1.0"),
        (of_first(error_before=float("nan")), "error_before of a layer is nan"),
        (of_first(scheme="w9"), "w9"),
        (of_first(scheme="w4a8-g32"), "8 bits, and its scheme is w4a8-g32"),
        (of_first(bits=4), "damaged"),
        (of_first(bits="8"), "not numbers"),
        (of_first(group_size=0), "damaged"),
        (of_first(shape=[7, 63]), "are incomplete"),
        (of_first(shape=[-7, -64]), "shape of a layer"),
        (of_first(shape=[7, 2**62, 2**62]), "are incomplete"),
    ],
)
def test_damaged_descriptions(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        Calibration.load(write(tmp_path / "file", change))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"0.scale": torch.zeros(7)}, "scale holds zero"),
        ({"0.scale": torch.ones(7, dtype=torch.float64)}, "scale must be"),
        ({"0.scale": torch.ones(8)}, "scale has shape"),
        ({"0.qweight": torch.full((7, 64), -128, dtype=torch.int8)}, "qweight holds"),
        ({"0.qweight": torch.zeros(7, 64)}, "qweight must be"),
        ({"0.qweight": torch.zeros(448, dtype=torch.int8)}, "codes of a layer have shape"),
        ({"0.zero": torch.zeros(7)}, "zero must be"),
        ({"0.input_scale": torch.full((64,), float("inf"))}, "input_scale holds"),
        ({"0.bias": torch.zeros(7)}, "tensors that belong to no layer"),
    ],
)
def test_damaged_tensors(tmp_path, tensors, words):
    with pytest.raises(ValueError, match=words):
        Calibration.load(write(tmp_path / "file", **tensors))


@pytest.mark.parametrize("drop", ["0.scale", "0.qweight", "3.group_scale"])
def test_missing_tensors(tmp_path, drop):
    with pytest.raises(ValueError, match="no calibration, or damaged"):
        Calibration.load(write(tmp_path / "file", drop=drop))


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="file not found"):
        Calibration.load(tmp_path / "none")
    for name, content in (
        ("empty", b""),
        ("text", b"hello, world"),
        ("large", (1 << 60).to_bytes(8, "little") + b"{}"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="no calibration, or damaged"):
            Calibration.load(tmp_path / name)
    save_file({"x": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match=f"it lacks '{KEY}'"):
        Calibration.load(tmp_path / "other")
    made().save(tmp_path / "cut")
    whole = (tmp_path / "cut").read_bytes()
    for size in (5, 100, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="no calibration, or damaged"):
            Calibration.load(tmp_path / "cut")


def test_a_code_book_can_not_be_saved(tmp_path):
    weight = dataclasses.replace(quantize_weight(torch.randn(2, 32), "w4a8-g32"), codebook=torch.arange(16.0))
    with pytest.raises(ValueError, match="codebook"):
        Calibration({"a": weight}, [layer("a", "w4a8-g32")]).save(tmp_path / "file")
    assert not list(tmp_path.iterdir())
