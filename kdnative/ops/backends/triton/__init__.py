"""Linears in Triton: the portable kernels, for devices and shapes that the CUDA ones don't serve.

One kernel a file. Importing this package imports ``triton``, so nothing of kdnative imports it before it is chosen
(``KDNATIVE_GPU_KERNELS=triton``). Sizes of tiles come from a shipped table (``configurations.py``), or from what
``tuning.py`` measured on a device: no call waits for a search.
"""

from __future__ import annotations

from kdnative.extras import require

require("triton", "the Triton kernels (KDNATIVE_GPU_KERNELS=triton)")
