"""Forked children of a process with a model: they compute the same on as many threads, and none hangs.

Everything runs in processes of their own, which are killed after a while: a hang is a failure. What the rows do is in
``tests/forked.py``.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdnative import save
from tests import forked

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a fork loses is libgomp's, on Linux")

ROOT = Path(__file__).parents[1]
SECONDS = 240  # most of it is for a machine that is busy; a child that hangs is noticed earlier


def finish(process: subprocess.Popen, seconds: float) -> tuple[str, str]:
    """Output and errors of the process, which is killed with all its children if it takes longer."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        pytest.fail(f"still running after {seconds} s")
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def start(command: list[str], **environment: str) -> subprocess.Popen:
    # Several processes of two threads may share two cores: threads that wait shall not spin.
    settings = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **settings, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of every row of a group; each group runs once."""
    found = {}

    def of(group: str) -> dict[str, str]:
        if group not in found:
            folder = tmp_path_factory.mktemp(group)
            output, errors = finish(start(["-m", "tests.forked", group, str(folder)]), SECONDS)
            assert output, errors
            found[group] = json.loads(output.splitlines()[-1])
        return found[group]

    return of


@pytest.mark.parametrize(
    ("group", "row"), [(group, row.__name__) for group, rows in forked.GROUPS.items() for row in rows]
)
def test_fork(results, group, row):
    if group == "transformers":
        pytest.importorskip("transformers")
        pytest.importorskip("sentence_transformers")
    result = results(group)[row]
    assert result == "ok", result


LOADED_LATE = """
import os, threading, torch
torch.randn(512, 512).exp()  # torch's threads start
pid = os.fork()
if pid == 0:  # and are lost here, where nobody looked after them
    torch.set_num_threads(1)
    import kdnative.ops
    done = threading.Event()
    threading.Thread(target=done.wait).start()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if kdnative.ops._C.pool_is_lost() else 1)
    print("children:", os.waitpid(pid, 0)[1], flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_pool_that_was_lost_before_the_library_came_is_not_given_up():
    """Giving it up would wait for it, within the fork."""
    output, errors = finish(start(["-c", LOADED_LATE]), SECONDS)
    assert output == "children: 0\n", errors


def get(address: str, seed: int) -> str:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(address)
    try:
        connection.request("GET", f"/{seed}")
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return body
    finally:
        connection.close()


def test_gunicorn_with_a_preloaded_model(tmp_path):
    pytest.importorskip("gunicorn")
    model = forked.make_model()
    save(model, tmp_path / "model")
    address = str(tmp_path / "socket")
    server = start(
        ["-m", "gunicorn", "--preload", "--workers=2", f"--bind=unix:{address}"]
        + ["--timeout=60", "--graceful-timeout=600", "tests.preloaded_app:app"],
        KDNATIVE_TEST_MODEL=str(tmp_path / "model"),
    )
    try:
        until = time.monotonic() + SECONDS
        while not os.path.exists(address):
            assert server.poll() is None and time.monotonic() < until, "gunicorn does not start"
            time.sleep(0.05)
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda number: get(address, number % 8), range(1000)))
    finally:
        os.kill(server.pid, signal.SIGTERM)
        _, log = finish(server, 120)
    assert "WORKER TIMEOUT" not in log and "one thread" not in log, log
    workers, threads, digests = zip(*(answer.split() for answer in answers), strict=True)
    assert len(set(workers)) == 2 and str(server.pid) not in workers
    assert set(threads) == {"2"}
    assert len(set(digests)) == 8 and all(digest == digests[number % 8] for number, digest in enumerate(digests))
