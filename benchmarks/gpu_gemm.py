"""One linear layer on a GPU, ours against every peer: ``kdnative bench gpu-gemm``.

``python benchmarks/gpu_gemm.py --peers --json gpu.json``
"""

import sys

from kdnative.bench import gpu_gemm

if __name__ == "__main__":
    sys.exit(gpu_gemm.main(sys.argv[1:]))
