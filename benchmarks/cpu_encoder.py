"""A whole encoder forward, ours against every peer: the same as ``kdnative bench encoder``.

``python benchmarks/cpu_encoder.py --json benchmarks/results/cpu_encoder.json``
"""

import sys

from kdnative.bench import encoder

if __name__ == "__main__":
    sys.exit(encoder.main())
