"""Linear with sparse schemes: what w8a8 gives, from float weights, state dicts and checkpoints."""

import copy
import pickle

import pytest
import torch
from torch import nn

import kdnative
from kdnative.nn import Linear
from kdnative.prune import finalize_masks_, mask_

SCHEMES = ["w8a8+4x1", "w8a8+2:4", "w8a8+mask"]


def dense_of(scheme: str) -> str:
    return scheme.split("+")[0]


def pruned(scheme: str, k: int = 128, n: int = 44, bias: bool = True) -> nn.Linear:
    pattern = scheme.split("+")[1]
    layer = nn.Linear(k, n, bias=bias)
    mask_(layer, None if pattern == "2:4" else 0.8, "unstructured" if pattern == "mask" else pattern)
    finalize_masks_(layer)
    return layer.requires_grad_(False)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_dense_scheme(scheme, bias):
    linear = pruned(scheme, bias=bias)
    module, dense = Linear.from_float(linear, scheme), Linear.from_float(linear, dense_of(scheme))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for shape in [(128,), (3, 128), (2, 40, 128), (0, 128)]:
            x = torch.randn(shape, dtype=dtype)
            y = module(x)
            assert y.dtype == dtype and torch.equal(y, dense(x))
    assert torch.equal(module.weight, dense.weight)
    assert (module.bias is None) == (not bias) and (not bias or torch.equal(module.bias, linear.bias))
    assert str(module.scheme) == scheme and f"scheme={scheme}" in repr(module)


def test_what_pruning_makes_is_left_out():
    """The blocks of kdnative.prune and those of the packed form lie the same way."""
    for scheme, share in zip(SCHEMES, (0.45, 0.8, 0.5), strict=True):
        linear = pruned(scheme, 1024, 1024)
        sparse, dense = Linear.from_float(linear, scheme), Linear.from_float(linear, dense_of(scheme))
        assert sparse.packed.numel() < share * dense.packed.numel()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_state_dicts_are_those_of_the_dense_scheme(scheme):
    linear = pruned(scheme)
    module, dense = Linear.from_float(linear, scheme), Linear.from_float(linear, dense_of(scheme))
    state, expected = module.state_dict(), dense.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    x = torch.randn(5, 128)
    for source in (state, linear.state_dict()):
        fresh = Linear(128, 44, scheme)
        fresh.load_state_dict(source)
        assert torch.equal(fresh(x), module(x)) and torch.equal(fresh.packed, module.packed)
    assert Linear(**module.spec).scheme == module.scheme


@pytest.mark.parametrize("scheme", SCHEMES)
def test_zero_weights_and_copies(scheme):
    module = Linear(64, 33, scheme)
    module.load_state_dict({"weight": torch.zeros(33, 64), "bias": torch.zeros(33)})
    assert torch.equal(module(torch.randn(4, 64)), torch.zeros(4, 33))
    module = Linear.from_float(pruned(scheme), scheme, activation="gelu")
    x = torch.randn(4, 128)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(x), module(x)) and twin.scheme == module.scheme


@pytest.mark.parametrize("scheme", SCHEMES)
def test_compiles(scheme):
    module = Linear.from_float(pruned(scheme), scheme)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 128)
    with torch.no_grad():
        assert torch.equal(compiled(x), module(x))


def test_two_of_four_is_checked():
    linear = nn.Linear(64, 8)
    with pytest.raises(ValueError, match=r"2:4 keeps two of four.*kdnative\.prune\.mask_\(model, pattern=\"2:4\"\)"):
        Linear.from_float(linear, "w8a8+2:4")
    module = Linear(64, 8, "w8a8+2:4")
    with pytest.raises(RuntimeError, match="2:4 keeps two of four"):
        module.load_state_dict(linear.state_dict())
    Linear.from_float(linear, "w8a8+mask"), Linear.from_float(linear, "w8a8+4x1")  # any weight has these forms


@pytest.mark.parametrize("scheme", SCHEMES)
def test_checkpoints(tmp_path, scheme):
    model = nn.Sequential(Linear.from_float(pruned(scheme), scheme), nn.ReLU())
    kdnative.save(model, tmp_path / "student")
    loaded = kdnative.load(tmp_path / "student")
    x = torch.randn(6, 128)
    assert torch.equal(loaded(x), model(x)) and str(loaded[0].scheme) == scheme
    (row,) = kdnative.inspect(tmp_path / "student")["modules"]
    assert row["scheme"] == scheme and row["shape"] == [44, 128]
