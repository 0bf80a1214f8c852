"""Mistakes in Triton's kernels of the divergence of two heads."""

KERNELS = "kdnative/ops/backends/triton/linear_kl.py"

TESTS = ("tests/gpu/test_triton_linear_kl.py", "-k", "sm_80 and not resources")

MUTANTS = (
    (KERNELS, "(depth < K - k)", "(depth < K)"),
    (KERNELS, "mask=(rows < R)[:, None] & inside", "mask=inside"),
    (KERNELS, "mask=(columns < C)[:, None] & inside", "mask=inside"),
    (KERNELS, 'return tl.where((columns < C)[None, :], sums, -float("inf"))', "return sums"),
    (KERNELS, "if HAS_BIAS:", "if False:"),
    (KERNELS, 'top = tl.where(top == -float("inf"), 0.0, top)', "top = top"),
    (KERNELS, "sums + to, factor * top +", "sums + to, top +"),
    (KERNELS, "tl.store(sums + to", "tl.store(sums + rows"),
    (KERNELS, "tl.sum(tl.exp(shifted), 1)", "tl.sum(tl.exp(factor * shifted), 1)"),
    (KERNELS, "tl.where(p == 0.0, 0.0, p * (log_p - log_q))", "p * (log_p - log_q)"),
    (KERNELS, "p * (log_p - log_q)", "p * (log_q - log_p)"),
    (KERNELS, "log_p = factor * theirs", "log_p = theirs"),
    (KERNELS, "(tl.exp(log_q) - p)", "(p - tl.exp(log_q))"),
    (KERNELS, "hit = hit & (columns < C)[None, :]", "hit = hit"),
    (KERNELS, "- hit.to(tl.float32)", ""),
    (KERNELS, "tl.where(hit, log_likelihood, 0.0)", "tl.where(hit, logits, 0.0)"),
    (KERNELS, "mask=is_row[:, None] & (columns < C)[None, :]", "mask=is_row[:, None]"),
    (KERNELS, "list(sums.logsumexp(1))", "list(sums.amax(1))"),
    (KERNELS, "parts.sum(1)", "parts[:, 0]"),
    (KERNELS, "1.0 / temperature,", "temperature,"),
)
