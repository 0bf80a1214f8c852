"""How weights lie in a GPU's memory, one file a family of kernels (``csrc/cuda``)."""
