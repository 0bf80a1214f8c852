"""Networks of convolutions: plain data, and the buffer that kernels read."""
