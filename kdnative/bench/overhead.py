"""``kdnative bench overhead``: what Python adds to an operator when a converted module calls it.

Each module is called with an input so small that the operator takes a few microseconds, side by side with the bare
operator on the same arguments; the cost is the median over rounds of the difference. For scale the same is measured
for ``torch.nn.Linear`` and ``torch.nn.functional.linear``.

The result, as JSON: ``{"suite": "overhead", "environment", "cases"}``; a case has ``name``, ``ours``, and the samples
``module`` and ``operator``, seconds, one a round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdnative import convert_, ops
from kdnative.bench.encoder_models import TorchModel, VisionModel, converted, load_encoder
from kdnative.bench.options import add_output
from kdnative.bench.results import goal, goal_line, rounded, start_line
from kdnative.machine.environment import environment, write_result
from kdnative.machine.latency import example_inputs
from kdnative.machine.timer import Timing, interleave, quantile, torch_threads
from kdnative.nn import Linear

GOAL = 3.0  # microseconds
_OURS = "kdnative."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "What Python adds to an operator when a converted module calls it."
    parser = argparse.ArgumentParser(prog="kdnative bench overhead", description=text, allow_abbrev=False)
    add_output(parser, rounds=25)
    options = parser.parse_args(argv)
    result = run(rounds=options.rounds, show=print)
    if options.json:
        write_result(options.json, result)
    return 0


def run(*, rounds: int = 25, show: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Measures every module of :func:`pairs` with one thread.

    Args:
        rounds: samples.
        show: called with each line of the report.

    Returns:
        The result, see the head of this module.
    """
    where = environment(1)
    show(start_line(where))
    cases = []
    with torch_threads(1), torch.inference_mode():
        for name, (module, operator) in pairs().items():
            timings = interleave({"module": module, "operator": operator}, rounds=rounds, round_seconds=0.01)
            cases.append(_case(name, timings))
            show(_line(cases[-1]))
    return {"suite": "overhead", "environment": where, "cases": cases}


def pairs() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """For each module by name: a call of it, and one of the operator that it runs, on the same arguments."""
    torch.manual_seed(0)
    plain, x = nn.Linear(64, 32).eval(), torch.randn(1, 64)
    found = {}
    for scheme in ("w8a8", "w4a8-g64"):
        layer = Linear.from_float(plain, scheme)
        found[f"{_OURS}nn.Linear {scheme}"] = _of_linear(layer, x)
    model = load_encoder("random-tiny")
    inputs = example_inputs(model, 1, 4)
    encoder = converted(model, "w8a8")
    ids, mask, types = inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"]
    packed, width = encoder.packed, encoder.spec["hidden_size"]
    found[f"{_OURS}nn.Encoder w8a8"] = (
        lambda: encoder(input_ids=ids, attention_mask=mask, token_type_ids=types),
        lambda: ops.encoder(packed, ids, mask, types, None, width),
    )
    states, keep = torch.randn(1, 4, 64), torch.ones(1, 4, dtype=torch.bool)
    stack, block = (convert_(cls(2, 64, 2, 128)).model.encoder for cls in (TorchModel, VisionModel))
    found[f"{_OURS}nn.TransformerEncoder w8a8"] = _of_layers(stack, states, keep, {"src_key_padding_mask": ~keep})
    found[f"{_OURS}nn.EncoderLayer w8a8"] = _of_layers(block[0], states, None, {})
    weight, bias = plain.weight, plain.bias
    found["torch.nn.Linear"] = (lambda: plain(x), lambda: nn.functional.linear(x, weight, bias))
    return found


def _of_linear(layer: Linear, x: torch.Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    operator = ops.LINEAR[layer.scheme.weight_bits, layer.scheme.activation_bits]
    packed, outputs = layer.packed, layer.out_features
    none = ops.activation_code("none")
    return lambda: layer(x), lambda: operator(x, packed, outputs, none)


def _of_layers(
    module: nn.Module, states: torch.Tensor, keep: torch.Tensor | None, options: dict[str, Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    packed = module.packed
    return lambda: module(states, **options), lambda: ops.encoder_layers(packed, states, keep, 0)


def _case(name: str, timings: Mapping[str, Timing]) -> dict[str, Any]:
    samples = {part: rounded(timings[part].samples) for part in ("module", "operator")}
    return {"name": name, "ours": name.startswith(_OURS), **samples}


def cost(case: Mapping[str, Any]) -> tuple[float, float, float]:
    """What Python adds: the 20th, 50th and 80th percentile over rounds of the difference, microseconds."""
    costs = [1e6 * (a - b) for a, b in zip(case["module"], case["operator"], strict=True)]
    return quantile(costs, 0.2), quantile(costs, 0.5), quantile(costs, 0.8)


def goals(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The goal of one of our modules."""
    return [goal(f"Python's part < {GOAL:g} us", cost(case)[1], GOAL, at_least=False)] if case["ours"] else []


def _line(case: Mapping[str, Any]) -> str:
    low, middle, high = cost(case)
    module, operator = (1e6 * quantile(case[part], 0.5) for part in ("module", "operator"))
    text = (
        f"{case['name']:28} module {module:7.2f} us, operator {operator:7.2f} us, difference "
        f"{middle:5.2f} us ({low:.2f} to {high:.2f})"
    )
    return "; ".join([text, *map(goal_line, goals(case))])


if __name__ == "__main__":
    sys.exit(main())
