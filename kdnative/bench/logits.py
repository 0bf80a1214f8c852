"""``kdnative bench logits``: the memory of distilling large vocabularies, with logits and without.

Three tables, each with the loss as it is computed from logits, and in tiles (`kdnative.distill.linear_kl`). *Counted*:
the peak of live tensors above parameters, hidden states and their gradients, on the meta device, fp32 and bf16.
*Resident*: the same of processes that compute it in fp32. *Trained*: processes that distil a small causal language
model for two epochs, their peak above the models, and their losses.

The result, as JSON: ``{"suite": "logits", "environment", "counted", "resident", "trained"}``, rows with the sizes that
they are of, ``logits`` and ``tiles`` (bytes, and losses of processes).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from kdnative.bench.live_bytes import LiveBytes
from kdnative.bench.logits_child import loss_of_heads
from kdnative.bench.options import add_output, add_threads, positive
from kdnative.bench.results import goal, goal_line, start_line
from kdnative.distill.terms import LARGE
from kdnative.machine.environment import child_environment, environment, write_result

__all__ = ["counted_peak", "main", "run"]

GOAL = 0.2
_WAYS = {"logits": None, "tiles": LARGE}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Memory of distilling large vocabularies, with logits and without."
    parser = argparse.ArgumentParser(prog="kdnative bench logits", description=text, allow_abbrev=False)
    for name, default, what in (
        ("tokens", 4096, "of the step that is counted"),
        ("resident", 1024, "tokens of the step whose process is measured"),
        ("trained", 512, "tokens of a training step"),
        ("width", 2048, "of hidden states"),
        ("vocabulary", 128_256, "classes of the heads"),
    ):
        parser.add_argument(f"--{name}", type=positive, default=default, help=f"{what} (default: {default})")
    add_threads(parser)
    add_output(parser, rounds=None)
    options = parser.parse_args(argv)
    found = run(
        counted=options.tokens,
        resident=options.resident,
        trained=options.trained,
        width=options.width,
        vocabulary=options.vocabulary,
        threads=options.threads,
        show=lambda line: print(line, flush=True),
    )
    if options.json:
        write_result(options.json, found)
    return 0


def run(
    *,
    counted: int,
    resident: int,
    trained: int,
    width: int,
    vocabulary: int,
    threads: int = 1,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures; see the head of this module.

    Args:
        counted, resident, trained: tokens of each. width: of the hidden states of a step; that of the trained student
            is 128. vocabulary: `kdnative.distill.terms.LARGE` at least.
        threads: of torch. show: called with each line of the report.

    Raises:
        ValueError: a smaller vocabulary, of which logits are always made.
        RuntimeError: a process failed; the text has the end of what it said.
    """
    if vocabulary < LARGE:
        raise ValueError(f"vocabulary={vocabulary}: logits are left out from {LARGE} classes on")
    where = environment(threads)
    show(start_line(where))
    found: dict[str, Any] = {"suite": "logits", "environment": where}
    found["counted"] = [
        {
            "dtype": str(dtype).removeprefix("torch."),
            "tokens": counted,
            **{way: counted_peak(large, counted, width, vocabulary, dtype) for way, large in _WAYS.items()},
        }
        for dtype in (torch.float32, torch.bfloat16)
    ]
    for row in found["counted"]:
        show(f"counted, {counted} tokens, {row['dtype']}: {_compared(row)}")
    size = {"width": width, "vocabulary": vocabulary, "threads": threads}
    steps = {way: _child({**size, "kind": "step", "large": large, "tokens": resident}) for way, large in _WAYS.items()}
    above = {way: each["peak"] - each["before"] - each["gradients"] for way, each in steps.items()}
    losses = {way: each["losses"] for way, each in steps.items()}
    found["resident"] = [{"dtype": "float32", "tokens": resident, **above, "losses": losses}]
    show(f"resident, {resident} tokens, float32: {_compared(above)}; losses {_shown(losses)}")
    job = {**size, "kind": "train", "tokens": trained, "width": 128, "steps": 4}
    runs = {way: _child({**job, "large": large}) for way, large in _WAYS.items()}
    above = {way: each["peak"] - each["before"] for way, each in runs.items()}
    losses = {way: each["losses"] for way, each in runs.items()}
    found["trained"] = [{"dtype": "float32", "tokens": trained, **above, "losses": losses}]
    show(f"trained, {trained} tokens, above the models: {above['logits'] / 1e6:.0f} MB, {above['tiles'] / 1e6:.0f} MB")
    show(f"  soft and hard of each epoch {_shown(losses)}")
    return found


def counted_peak(large: int | None, tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> int:
    """The most bytes of tensors at once in a step, less the gradients of weight and hidden states."""
    loss, student, teacher = loss_of_heads(large, tokens, width, vocabulary, dtype, "meta")
    batch = SimpleNamespace(inputs={}, labels=None, index=torch.arange(tokens))
    with LiveBytes() as counter:
        loss(batch, student, [teacher]).backward()
    return counter.peak - sum(x.grad.nbytes for x in (student.head.weight, student.hidden) if x.grad is not None)


def _compared(row: dict[str, Any]) -> str:
    share = goal(f"at most {GOAL:g} of it", row["tiles"] / row["logits"], GOAL, at_least=False)
    return f"{row['logits'] / 1e6:.0f} MB with logits, {row['tiles'] / 1e6:.0f} MB in tiles, {goal_line(share)}"


def _shown(losses: dict[str, list[float]]) -> str:
    return " and ".join(", ".join(f"{value:.6f}" for value in values) for values in losses.values())


def _child(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "kdnative.bench.logits_child", json.dumps(job)]
    ended = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=False)
    if ended.returncode:
        end = "\n".join(ended.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"the process that measures a {job['kind']} failed with {ended.returncode}:\n{end}")
    return json.loads(ended.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
