"""Sums of exponentials of a tile against `torch.logsumexp`, at the ends of the range."""

from __future__ import annotations

import pytest
import torch

from kdnative.distill.tiled.tiles import log_sum_of_logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_log_sums(temperature, dtype):
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor(
        [[1.0, 2.0, -3.0], [1e4, 1e4, -1e4], [-1e4, -1e4, -1e4], [-inf, 0.0, 1.0], [-inf, -inf, -inf], [nan, 0.0, 1.0]],
        dtype=dtype,
    )
    before = logits.clone()
    torch.testing.assert_close(
        log_sum_of_logits(logits, temperature), (logits / temperature).logsumexp(-1), equal_nan=True
    )
    assert torch.equal(logits.nan_to_num(), before.nan_to_num()), "logits are read again"
