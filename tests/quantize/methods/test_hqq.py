import numpy as np
import pytest
import torch

from kdnative.quantize import quantize_weight
from kdnative.quantize.methods import HQQ
from tests.quantize.methods.correlated import weights

P, BETA = 0.7, 10.0


def norm(error):
    return (np.abs(error) ** P).sum()


def shrunk(error):
    """The solution of the paper for its outliers, of errors in steps."""
    size = np.abs(error)
    return np.sign(error) * np.maximum(size - np.maximum(size, 1e-8) ** (P - 1) / BETA, 0)


def one_step(w, bits, asymmetric):
    """One iteration in float64 on a group: step and zero point, or None where its norm is no better."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    zero, unit = 0.0, np.abs(w).max() / high
    if asymmetric:
        unit = (max(w.max(), 0) - min(w.min(), 0)) / (high - low)
        zero = np.clip(np.round(low - min(w.min(), 0) / unit), low, high)

    def nearest(step):
        return np.clip(np.round(w / step), low - zero, high - zero)

    def rest():
        return w - shrunk((w - nearest(unit) * unit) / unit) * unit

    before = norm(nearest(unit) - w / unit)
    if asymmetric:
        zero = np.clip(zero + np.round((nearest(unit) - rest() / unit).mean()), low, high)
    n = nearest(unit)
    fitted = (n * rest()).sum() / (n * n).sum()
    return (fitted, zero) if norm((nearest(fitted) * fitted - w) / unit) < before else None


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_one_iteration_against_float64(bits, asymmetric):
    weight = weights(6, 64)
    scheme = f"w{bits}a8-g32{'-asym' if asymmetric else ''}"
    (found,) = HQQ(iterations=1, beta=BETA, p=P).quantize([weight], scheme)
    moved = 0
    for row in range(6):
        for g in range(2):
            expected = one_step(weight[row, 32 * g : 32 * g + 32].double().numpy(), bits, asymmetric)
            if expected is not None:
                moved += 1
                assert float(found.scale[row, g]) == pytest.approx(expected[0], rel=1e-4)
                assert not asymmetric or int(found.zero[row, g]) == expected[1]
    assert moved  # else nothing was compared


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32", "w4a8-g32-asym", "w4a8-g32-int", "w2a8-g32", "w2a8-g32-asym"])
def test_never_worse_in_its_own_norm(scheme):
    weight = weights(32, 128)
    weight[:, 7] *= 20
    nearest = quantize_weight(weight, scheme)
    (found,) = HQQ().quantize([weight], scheme)
    groups = (32, -1, found.group_size or 128)
    unit = (nearest.dequantize() - weight).view(groups).abs().amax(-1, keepdim=True).clamp(min=1e-9)
    ours, theirs = (((q.dequantize() - weight).view(groups) / unit).abs().pow(P).sum(-1) for q in (found, nearest))
    assert (ours <= theirs * (1 + 1e-4)).all()
    if not scheme.endswith("-int"):
        assert ours.sum() < theirs.sum()


def test_units_do_not_matter():
    weight = weights(8, 64)
    (small,), (large,) = (HQQ().quantize([weight * size], "w4a8-g32") for size in (2.0**-20, 2.0**20))
    assert torch.equal(small.qweight, large.qweight)


def test_a_fixed_point_stays():
    """Weights on the grid have no error, and what has none is not moved."""
    codes = torch.randint(-7, 8, (4, 64)).float()
    codes[:, ::32] = 7
    (found,) = HQQ().quantize([codes * 0.125], "w4a8-g32")
    assert torch.equal(found.dequantize(), codes * 0.125)
