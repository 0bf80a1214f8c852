"""SIGKILL at any moment costs time and nothing else; `python -m tests.pipeline.kills 60` does it more often."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(3600)  # half a dozen runs, on a machine that may have other work
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are started by fork")
def test_killed_runs_end_with_the_same_bits():
    """In a process of its own: this one may have started threads, which a fork would lose."""
    command = [sys.executable, "-m", "tests.pipeline.kills", "2"]  # one of each kind
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    end = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stderr
    assert re.match(r"\d+ kills in \d+ runs .*: every run ended with the same bits", end.stdout), end.stdout
