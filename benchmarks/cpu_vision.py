"""Networks of convolutions on pictures, ours against every peer: ``kdnative bench vision``.

``python benchmarks/cpu_vision.py --peers --json vision.json --plot vision.svg``
"""

import sys

from kdnative.bench import vision

if __name__ == "__main__":
    sys.exit(vision.main(sys.argv[1:]))
