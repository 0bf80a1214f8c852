"""Which models of torchvision and timm can lose half of their multiplications, as a table.

``python -m tests.prune.channel_coverage`` prunes each with random weights. `prune_channels_` itself runs it forward and
backward, in evaluation and in training, and follows it again.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch

from kdnative.prune import prune_channels_
from tests.cnn.coverage import SIZES, TIMM, TORCHVISION, build

KEEP = {"googlenet": ["inception4a", "inception4d"], "inception_v3": ["Mixed_6e"]}
"""What auxiliary classifiers read, which run in training alone."""


def row(name: str) -> str:
    """Prune one model."""
    model = build(name)
    # Several times 32, so that training has more than one number for each channel.
    images = torch.randn(2, 3, *SIZES.get(name.removeprefix("timm/"), (96, 96)))
    try:
        report = prune_channels_(model, images, macs=0.5, keep=KEEP.get(name, ()))
    except ValueError as error:
        return f"| {name} | - | - | - | {str(error)[:200]} |"
    why = Counter("split or shuffled" if "splits channels" in r.why else r.why for r in report if r.why)
    cells = (
        name,
        f"{report.macs_after / report.macs_before:.2f}",
        f"{report.parameters_after / report.parameters_before:.2f}",
        f"{sum(not r.why for r in report)} of {len(report)}",
        "; ".join(f"{count} {reason}" for reason, count in why.most_common(2)),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*TORCHVISION, *(f"timm/{name}" for name in TIMM)])
    print("| model | MACs | parameters | groups that may go | what stays |")
    print("| --- | --- | --- | --- | --- |")
    for name in parser.parse_args().models:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
