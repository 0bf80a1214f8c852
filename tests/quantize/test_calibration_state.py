"""A calibration that was killed goes on, and gives the same bits."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kdnative.quantize import calibrate_
from tests.quantize.recording import Recording, assert_same_weights


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 32))


DATA = [torch.randn(20, 64, generator=torch.Generator().manual_seed(i)) for i in range(3)]


class Killed(BaseException):
    pass


def killed_after(layers):
    def tell(what, done, total):
        if (what, done) == ("quantizing", layers):
            raise Killed

    return tell


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_goes_on_with_the_same_bits(tmp_path, sequential, layers):
    whole = calibrate_(model(), "w4a8-g32", DATA, method="gptq", sequential=sequential)
    options = {"method": "gptq", "sequential": sequential, "state_path": tmp_path / "state"}
    with pytest.raises(Killed):
        calibrate_(model(), "w4a8-g32", DATA, **options, progress=killed_after(layers))
    (tmp_path / "state" / ".half.safetensors.123.tmp").write_bytes(b"what a killed write leaves behind")
    told = []
    found = calibrate_(model(), "w4a8-g32", DATA, **options, progress=lambda *what: told.append(what))
    assert_same_weights(found, whole)
    assert found.rows == whole.rows
    assert all(one.save(tmp_path / name) is None for one, name in ((found, "resumed"), (whole, "whole")))
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert [what for what in told if what[0] == "quantizing"] == [("quantizing", i, 3) for i in range(layers + 1, 4)]
    assert len(list((tmp_path / "state").iterdir())) == 3


SCRIPT = """
import os, signal, sys
from kdnative.quantize import calibrate_
from tests.quantize.test_calibration_state import DATA, model

def tell(what, done, total):
    if (what, done) == ("quantizing", 2):
        os.kill(os.getpid(), signal.SIGKILL)

calibrate_(model(), "w4a8-g32", DATA, method="gptq", state_path=sys.argv[1], progress=tell)
"""


def test_a_process_that_is_killed(tmp_path):
    killed = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.glob("*.safetensors"))) == 2
    found = calibrate_(model(), "w4a8-g32", DATA, method="gptq", state_path=tmp_path)
    assert_same_weights(found, calibrate_(model(), "w4a8-g32", DATA, method="gptq"))


def test_what_is_done_is_not_done_again(tmp_path):
    first, second = Recording(), Recording()
    options = {"method": first, "state_path": tmp_path}
    with pytest.raises(Killed):
        calibrate_(model(), "w8a8", DATA, **options, progress=killed_after(2))
    calibrate_(model(), "w8a8", DATA, **{**options, "method": second})
    assert (len(first.seen), len(second.seen)) == (2, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": model(1)}, "with different model"),
        ({"calibration": DATA[:2]}, "with different calibration data"),
        ({"schemes": "w2a8-g32"}, "with different settings"),
        ({"method": "clip"}, "with different settings"),
        ({"sequential": True}, "with different settings"),
        ({"model": model(1), "calibration": DATA[:2]}, "with different model and calibration data"),
    ],
)
def test_a_state_of_something_else(tmp_path, change, words):
    given = {"model": model(), "schemes": "w4a8-g32", "calibration": DATA, "method": "rtn", "state_path": tmp_path}
    calibrate_(**given)
    with pytest.raises(ValueError, match=words):
        calibrate_(**{**given, **change})


def test_a_damaged_state(tmp_path):
    calibrate_(model(), "w8a8", DATA, method="rtn", state_path=tmp_path)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="no calibration, or damaged"):
        calibrate_(model(), "w8a8", DATA, method="rtn", state_path=tmp_path)
    with pytest.raises(ValueError, match="is a file; give a folder"):
        calibrate_(model(), "w8a8", DATA, method="rtn", state_path=path)
