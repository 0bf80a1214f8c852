"""SIGTERM and SIGHUP end a run as Ctrl-C does; handlers of others, and runs in other threads, are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

import kdnative
from kdnative.pipeline import RunFolder
from kdnative.pipeline.stages import training
from kdnative.pipeline.stopping import Stopped, stopping
from tests.pipeline.conftest import changed, write_recipe

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the signals of POSIX")

# Sends a signal to itself at a step of the teacher's training: no test has to guess when that is.
_SIGNALLED = """
import os, signal, sys
from kdnative.cli import main
from kdnative.pipeline.stages import training

class Clock(training._Clock):
    def on_step(self, progress):
        if progress.step == 6:
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))

training._Clock = Clock
sys.exit(main(["run", *sys.argv[2:]]))
"""


@pytest.fixture(autouse=True)
def _hung_up_by_default():
    """Also where the tests themselves run under `nohup`, which children would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_run_that_is_told_to_end_says_so_and_goes_on_later(finished, tiny, tmp_path, name, code):
    recipe, runs = write_recipe(tmp_path / "r.yaml", tiny), tmp_path / "runs"
    command = [sys.executable, "-c", _SIGNALLED, name, str(recipe), "--runs", str(runs), "--quiet"]
    end = subprocess.run(command, capture_output=True, text=True, check=False)
    assert end.returncode == code, end.stderr
    words = f"stopped by {name}; continue a run with --resume"
    assert end.stderr.endswith(f"kdnative: {words}\n") and end.stderr.count("stopped") == 1
    log = (runs / "tiny" / "log.txt").read_text(encoding="utf-8")
    assert log.endswith(f"ERROR {words}\n")
    run = RunFolder(kdnative.run(recipe, runs=runs, resume=True, until="train_teacher", progress=False))
    assert "train_teacher: continues from its last saved step" in (run.path / "log.txt").read_text(encoding="utf-8")
    assert run.record("train_teacher")["digest"] == finished.record("train_teacher")["digest"]


def test_ctrl_c_is_in_the_log_in_the_same_words(tiny, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training._Clock, "on_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kdnative.run(write_recipe(tmp_path / "r.yaml", tiny), runs=tmp_path / "runs", progress=False)
    log = (tmp_path / "runs" / "tiny" / "log.txt").read_text(encoding="utf-8")
    assert log.endswith("ERROR stopped; continue a run with --resume\n")


def test_from_python_too_and_the_handlers_are_those_of_before(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training._Clock, "on_step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    recipe = write_recipe(tmp_path / "r.yaml", tiny)
    with pytest.raises(Stopped) as caught:
        kdnative.run(recipe, runs=tmp_path / "runs", progress=False)
    assert caught.value.code == 143
    assert capsys.readouterr().err.endswith("kdnative: stopped by SIGTERM; continue a run with --resume\n")
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    monkeypatch.undo()
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}
    kdnative.run(write_recipe(recipe, changed(tiny, train_teacher={"max_steps": 1})), overwrite=True, **options)
    assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_a_second_signal_ends_the_process_at_once():
    """While the first one is being dealt with, which here never ends."""
    code = (
        "import os, signal, time\n"
        "from kdnative.pipeline.stopping import stopping\n"
        "with stopping():\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('still here')\n"
    )
    end = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert end.returncode == -signal.SIGTERM and end.stdout == ""


@pytest.mark.parametrize("other", [signal.SIG_IGN, lambda *_: None])
def test_handlers_of_others_stay(other):
    """`nohup` ignores SIGHUP, and services have handlers of their own."""
    before = signal.signal(signal.SIGHUP, other)
    try:
        with stopping():
            assert signal.getsignal(signal.SIGHUP) is other
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is other
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_handler_that_is_set_meanwhile_stays():
    def own(*_):
        pass

    try:
        with stopping():
            signal.signal(signal.SIGTERM, own)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_another_thread_can_run_a_recipe(tiny, tmp_path):
    """Only the main thread can set handlers."""
    recipe = write_recipe(tmp_path / "r.yaml", changed(tiny, train_teacher={"max_steps": 1}))
    found = []

    def run():
        try:
            found.append(kdnative.run(recipe, runs=tmp_path / "runs", until="train_teacher", progress=False))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [tmp_path / "runs" / "tiny"]
