"""One linear layer, ours against every peer: ``kdnative bench gemm`` with ``--set`` for named shapes.

``python benchmarks/cpu_gemm.py --set minilm --threads 2 --json minilm.json``
"""

import sys

import shapes

from kdnative.bench import gemm


def main(argv: list[str]) -> int:
    """Replaces ``--set NAME`` by the shapes of that name."""
    argv = list(argv)
    while "--set" in argv:
        at = argv.index("--set")
        if at + 1 == len(argv) or argv[at + 1] not in shapes.SETS:
            print(f"--set takes one of {', '.join(shapes.SETS)}", file=sys.stderr)
            return 2
        argv[at : at + 2] = ["--shapes", shapes.as_option(argv[at + 1])]
    return gemm.main(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
