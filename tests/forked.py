"""What tests/test_fork.py looks at, in a process of its own: ``python -m tests.forked GROUP FOLDER``.

Prints one JSON object: for each row "ok", or what was wrong. Every row compares a child with its parent, which runs the
model after the child did, so that the parent's threads are those that the row is about.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kdnative
from kdnative import _C

THREADS = 2
PATIENCE = 30  # seconds that a child may take before it counts as hanging


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 512)).eval()
    return kdnative.convert_(model, "w8a8").model


def make_input() -> torch.Tensor:
    return torch.randn(256, 512, generator=torch.Generator().manual_seed(1))


def os_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def forward(model: nn.Module, *inputs: torch.Tensor) -> bytes:
    with torch.inference_mode():
        output = model(*inputs)
    output = output if isinstance(output, torch.Tensor) else output[0]
    return output.numpy().tobytes()


def child(work: Callable[[], object], fork: Callable[[], int] = os.fork) -> object:
    """What ``work`` returns in a forked child; RuntimeError where it hangs or fails."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            with open(writing, "wb") as pipe:
                pickle.dump(work(), pipe)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        ready, _, _ = select.select([pipe], [], [], PATIENCE)
        if not ready:
            os.kill(pid, signal.SIGKILL)
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer:
        raise RuntimeError("the child failed" if ready else "the child hangs")
    return pickle.loads(answer)


def on_threads(work: Callable[[], bytes]) -> tuple[bytes, int, bool]:
    """What ``work`` gives, torch's number of threads, and whether the process has threads at all."""
    answer = work()
    return answer, torch.get_num_threads(), os_threads() >= THREADS


def compare(work: Callable[[], bytes], fork: Callable[[], int] = os.fork) -> None:
    """A child computes what its parent does, on as many threads."""
    answer, threads, parallel = child(lambda: on_threads(work), fork)
    assert threads == THREADS and parallel, f"the child has {threads} threads (running: {parallel})"
    assert answer == work(), "the child computes something else"


# Plain models.


class Outputs(Dataset):
    def __init__(self, model: nn.Module):
        self.model = model

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(make_input())[index]


held = None  # what a worker finds as it finds a model at the level of a module


def use_held(_: int = 0) -> bytes:
    return forward(held, make_input())


def put_held(queue) -> None:
    queue.put(use_held())


def put_output(model: nn.Module, queue) -> None:
    queue.put(forward(model, make_input()))


def converted(folder: Path) -> None:
    model = make_model()
    compare(lambda: forward(model, make_input()))


def loaded(folder: Path) -> None:
    kdnative.save(make_model(), folder / "model")
    model = kdnative.load(folder / "model")
    compare(lambda: forward(model, make_input()))


def after_a_forward(folder: Path) -> None:
    model = make_model()
    forward(model, make_input())
    assert os_threads() >= THREADS
    compare(lambda: forward(model, make_input()))


def converted_in_the_child(folder: Path) -> None:
    make_model()
    compare(lambda: forward(make_model(), make_input()))


def shared_memory(folder: Path) -> None:
    model = make_model().share_memory()
    forward(model, make_input())
    compare(lambda: forward(model, make_input()))


def fork_of_c(folder: Path) -> None:
    """As a server in C forks: Python's hooks do not run."""
    model = make_model()
    forward(model, make_input())
    compare(lambda: forward(model, make_input()), ctypes.PyDLL(None).fork)


def from_another_thread(folder: Path) -> None:
    model = make_model()
    forward(model, make_input())

    def work() -> None:
        forward(model, make_input())  # a pool for this thread
        compare(lambda: forward(model, make_input()))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()
    compare(lambda: forward(model, make_input()))


def from_a_child(folder: Path) -> None:
    model = make_model()

    def work() -> bytes:
        first = forward(model, make_input())
        compare(lambda: forward(model, make_input()))
        return first

    compare(work)


def many_times(folder: Path) -> None:
    model = make_model()
    expected = forward(model, make_input())
    for _ in range(20):
        assert child(lambda: forward(model, make_input())) == expected
        assert forward(model, make_input()) == expected


def float_model(folder: Path) -> None:
    """Torch's own operators: matrix products of MKL, convolutions of oneDNN, and those of its own pool."""
    make_model()
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GELU(), nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(), nn.Linear(16 * 28 * 28, 512)
    ).eval()
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    before = forward(model, images)
    answer, threads, parallel = child(lambda: on_threads(lambda: forward(model, images)))
    assert threads == THREADS and parallel
    ours, theirs = (torch.frombuffer(bytearray(data), dtype=torch.float32) for data in (before, answer))
    torch.testing.assert_close(theirs, ours)


def process_pool(folder: Path) -> None:
    global held
    held = make_model()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(use_held, number) for number in range(4)]
        try:
            answers = [future.result(timeout=PATIENCE) for future in futures]
        except TimeoutError:
            for process in pool._processes.values():
                process.kill()
            raise RuntimeError("the workers hang") from None
    assert answers == [use_held()] * 4


def processes(folder: Path) -> None:
    global held
    held = make_model()
    forward(held, make_input())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    started = [context.Process(target=put_held, args=(queue,), daemon=True) for _ in range(2)]
    for process in started:
        process.start()
    answers = [queue.get(timeout=PATIENCE) for _ in started]
    assert answers == [use_held()] * 2


def data_loader(folder: Path) -> None:
    model = make_model()
    expected = forward(model, make_input()[:8])
    loader = DataLoader(Outputs(model), 4, num_workers=2, multiprocessing_context="fork", timeout=PATIENCE)
    assert torch.cat(list(loader)).numpy().tobytes() == expected


def spawned(folder: Path) -> None:
    model = make_model()
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        context.Process(target=put_output, args=(model, queue), daemon=True).start()
        assert queue.get(timeout=2 * PATIENCE) == forward(model, make_input()), method


def exits(folder: Path) -> None:
    """A child that ends as programs do does not wait for the threads that ``set_num_threads`` gave its parent."""
    torch.set_num_threads(THREADS)
    model = make_model()
    pid = os.fork()
    if pid == 0:
        forward(model, make_input())
        sys.exit(0)
    ready, _, _ = select.select([os.pidfd_open(pid)], [], [], PATIENCE)
    if not ready:
        os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == 0, "the child hangs or fails at its end"


# Transformers.


def bert_loaded(folder: Path) -> None:
    from tests.small_models import bert

    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
    model = kdnative.convert_(bert(kind="BertModel", **sizes), "w8a8").model
    kdnative.save(model, folder / "bert")
    loaded = kdnative.load(folder / "bert")
    ids = torch.randint(0, 200, (16, 32), generator=torch.Generator().manual_seed(1))
    compare(lambda: forward(loaded, ids, torch.ones_like(ids)))


def sentence_transformer(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from tests.pipeline.conftest import write_model

    source = str(write_model(folder / "source", width=128))
    saved = SentenceTransformer(source, device="cpu")
    kdnative.convert_(saved, "w8a8")
    kdnative.save(saved, folder / "sentences")
    model = kdnative.load(folder / "sentences", into=SentenceTransformer(source, device="cpu"))
    texts = ["the film was great and the cast was lovely " * 3] * 32
    compare(lambda: model.encode(texts).tobytes())


# Where the threads can't be given up.


def on_one_thread(work: Callable[[], bytes]) -> None:
    """A child without its threads computes the same on one, and says so in one line."""

    def quiet() -> tuple[bytes, int, str]:
        with open(os.memfd_create("stderr"), "w+b", buffering=0) as file:
            os.dup2(file.fileno(), 2)
            answers = {work(), work()}
            file.seek(0)
            said = file.read().decode()
        assert len(answers) == 1
        return answers.pop(), torch.get_num_threads(), said

    answer, threads, said = child(quiet)
    assert answer == work(), "the child computes something else"
    assert threads == 1, threads
    assert said.count("\n") == 1 and "it uses one thread" in said and "'spawn'" in said, said


def kept_pool(folder: Path) -> None:
    model = make_model()
    _C.keep_pool_at_fork(True)
    on_one_thread(lambda: forward(model, make_input()))
    assert not _C.pool_is_lost() and torch.get_num_threads() == THREADS


def more_threads_asked_for(folder: Path) -> None:
    """A child that asks torch for threads after all does not get them for operators of kdnative."""
    model = make_model()[0]
    _C.keep_pool_at_fork(True)

    def work() -> bytes:
        torch.set_num_threads(THREADS)
        return forward(model, make_input())

    assert child(work) == forward(model, make_input())


def kept_pool_from_a_child(folder: Path) -> None:
    """The pool stays lost to a child's children, also where pools are given up again."""
    model = make_model()
    _C.keep_pool_at_fork(True)

    def work() -> bytes:
        _C.keep_pool_at_fork(False)
        return child(lambda: forward(model, make_input()))

    assert child(work) == forward(model, make_input())


def no_pool(folder: Path) -> None:
    """Nothing is lost where no thread ran: a child starts its own."""
    assert os_threads() == 1, "this row needs a process without threads"
    _C.keep_pool_at_fork(True)
    compare(lambda: forward(make_model(), make_input()))


def beside_a_running_thread(folder: Path) -> None:
    """Locks of a thread that runs at a fork stay shut in the child, whose own threads are therefore never ended."""
    model = make_model()
    expected = forward(model, make_input())
    begun = threading.Event()

    def compute() -> None:
        begun.set()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 4_000_000)  # without the interpreter's lock

    thread = threading.Thread(target=compute)
    thread.start()
    begun.wait()

    def work() -> tuple[bytes, int, bool]:
        answer = on_threads(lambda: forward(model, make_input()))
        on_one_thread(lambda: forward(model, make_input()))
        return answer

    answer = child(work)
    assert thread.is_alive(), "the thread ended too early"
    thread.join()
    assert answer == (expected, THREADS, True)


GROUPS = {
    "plain": (
        *(converted, loaded, after_a_forward, converted_in_the_child, shared_memory, fork_of_c, from_another_thread),
        *(from_a_child, many_times, float_model, process_pool, processes, data_loader, spawned, exits),
    ),
    "transformers": (bert_loaded, sentence_transformer),
    "without": (no_pool, kept_pool, more_threads_asked_for, kept_pool_from_a_child, beside_a_running_thread),
}


def main(group: str, folder: Path) -> None:
    assert torch.get_num_threads() == THREADS  # by the environment: torch starts a thread where it is set here
    results = {}
    for row in GROUPS[group]:
        _C.keep_pool_at_fork(False)
        try:
            row(folder)
            results[row.__name__] = "ok"
        except Exception:
            results[row.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
