import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from kdnative import ops
from kdnative.formats.scheme import Scheme
from kdnative.nn import Linear
from kdnative.quantize import quantize_weight

SCHEMES = ["w8a8", "w4a8-g32", "w4a8-g64-asym", "w4a8-g128", "w2a8-g32", "w2a8-g64-asym"]
INTEGER_SCALES = ["w4a8-g32-int", "w4a8-g128-int"]
FLOAT_SCHEMES = ["w8a16", "w4a16-g32", "w4a16-g64-asym", "w2a16-g128"]  # activations stay in floating point


def random_linear(k=128, n=40, bias=True, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(k, n, bias=bias).requires_grad_(False)


def emulate(x, weight, bias):
    """The kernel's arithmetic in NumPy: exact integers, then fp32 in the documented order."""
    x = x.float().numpy()
    flat = x.reshape(-1, x.shape[-1]).astype(np.float32)
    amax = np.abs(flat).max(axis=1, initial=0).astype(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(amax < 1e-30, np.float32(0), np.float32(127) / amax).astype(np.float32)
    q = np.rint(flat * inverse[:, None]).astype(np.int64)
    scale_a = (amax / np.float32(127)).astype(np.float32)
    codes, scale = weight.qweight.numpy().astype(np.int64), weight.scale.numpy()
    if weight.group_size is None:
        y = (q @ codes.T).astype(np.float32) * (scale_a[:, None] * scale[None, :])
    else:
        y = np.zeros((len(q), len(codes)), np.float32)
        for g in range(scale.shape[1]):
            columns = slice(g * weight.group_size, (g + 1) * weight.group_size)
            w = codes[:, columns] - (0 if weight.zero is None else weight.zero.numpy().astype(np.int64)[:, g : g + 1])
            dot = (q[:, columns] @ w.T).astype(np.float64)
            y = (dot * scale[:, g].astype(np.float64) + y.astype(np.float64)).astype(np.float32)
        y = y * scale_a[:, None]
    y = y if bias is None else y + bias.numpy()
    return torch.from_numpy(y.reshape(*x.shape[:-1], len(codes)))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bias", [True, False])
def test_forward_equals_the_documented_arithmetic(scheme, bias):
    linear = random_linear(bias=bias)
    module = Linear.from_float(linear, scheme)
    weight = quantize_weight(linear.weight, Scheme.parse(scheme))
    for shape in [(128,), (3, 128), (2, 5, 128), (0, 128), (2, 0, 128)]:
        x = torch.randn(shape)
        y = module(x)
        assert y.shape == (*shape[:-1], 40) and y.dtype == torch.float32
        torch.testing.assert_close(y, emulate(x, weight, linear.bias), rtol=0, atol=0 if scheme == "w8a8" else 1e-6)


@pytest.mark.parametrize("scheme", FLOAT_SCHEMES)
@pytest.mark.parametrize("bias", [True, False])
def test_float_activations_multiply_the_dequantized_weight(scheme, bias):
    module = Linear.from_float(random_linear(bias=bias), scheme)
    integer = Linear.from_float(random_linear(bias=bias), scheme.replace("a16", "a8"))
    assert torch.equal(module.packed, integer.packed), "the weights of both are the same buffer"
    for shape in [(128,), (3, 128), (2, 5, 128), (0, 128), (2, 0, 128)]:
        x = torch.randn(shape).bfloat16().float()  # exact as bf16: some processors multiply bf16 factors
        y = module(x)
        exact = nn.functional.linear(x.double(), module.weight.double(), module.bias.double() if bias else None)
        assert y.shape == (*shape[:-1], 40) and y.dtype == torch.float32
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheme", INTEGER_SCALES)
def test_integer_scales_give_the_bits_of_8_bit_weights(scheme):
    linear, x = random_linear(), torch.randn(9, 128)
    module = Linear.from_float(linear, scheme)
    eight = Linear.from_quantized(module.quantized().decoded(), linear.bias, "w8a8")
    assert torch.equal(module(x), eight(x)) and torch.equal(module.weight, eight.weight)
    with pytest.raises(ValueError, match="integer group scales, which is not scheme w4a8-g32-asym"):
        Linear.from_quantized(quantize_weight(linear.weight, "w4a8-g32-int"), None, "w4a8-g32-asym")
    with pytest.raises(ValueError, match="no integer group scales, which is not scheme w4a8-g32-int"):
        Linear.from_quantized(quantize_weight(linear.weight, "w4a8-g32-asym"), None, "w4a8-g32-int")


@pytest.mark.parametrize("k, n", [(1, 1), (3, 33), (64, 32), (65, 31), (312, 1000), (127, 2)])
def test_odd_shapes(k, n):
    linear = random_linear(k, n)
    module, x = Linear.from_float(linear), torch.randn(7, k)
    expected = emulate(x, quantize_weight(linear.weight, "w8a8"), linear.bias)
    assert torch.equal(module(x), expected)


@pytest.mark.parametrize("dtype, relative", [(torch.float32, 0.01), (torch.bfloat16, 0.015), (torch.float16, 0.01)])
def test_close_to_the_float_layer_in_every_dtype(dtype, relative):
    linear = random_linear(256, 96)
    x = torch.randn(4, 6, 256).to(dtype)
    y = Linear.from_float(linear)(x)
    assert y.dtype == dtype
    exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
    assert (y.double() - exact).norm() / exact.norm() < relative


def test_non_contiguous_input():
    module, x = Linear.from_float(random_linear()), torch.randn(128, 6)
    assert torch.equal(module(x.t()), module(x.t().contiguous()))
    wide = torch.randn(4, 256)
    assert torch.equal(module(wide[:, ::2]), module(wide[:, ::2].contiguous()))
    row = torch.randn(1, 128).expand(5, 128)
    assert torch.equal(module(row), module(row.contiguous()))


@pytest.mark.parametrize("name", ["relu", "gelu", "gelu_tanh", "silu", "tanh"])
def test_fused_activation(name):
    functions = {
        "relu": torch.relu,
        "gelu": nn.functional.gelu,
        "gelu_tanh": lambda y: nn.functional.gelu(y, approximate="tanh"),
        "silu": nn.functional.silu,
        "tanh": torch.tanh,
    }
    linear, x = random_linear(), 3 * torch.randn(5, 128)
    plain, fused = Linear.from_float(linear), Linear.from_float(linear, activation=name)
    torch.testing.assert_close(fused(x), functions[name](plain(x)), rtol=1e-5, atol=2e-6)
    assert f"activation={name}" in repr(fused) and fused.spec["activation"] == name


def test_unknown_activation_lists_the_allowed_ones():
    with pytest.raises(ValueError, match="relu, gelu"):
        Linear(64, 64, activation="swish")


@pytest.mark.parametrize("scheme", SCHEMES + FLOAT_SCHEMES + INTEGER_SCALES)
@pytest.mark.parametrize("bias", [True, False])
def test_state_dict_is_plain_and_round_trips(scheme, bias):
    linear = random_linear(bias=bias)
    module, parsed = Linear.from_float(linear, scheme), Scheme.parse(scheme)
    state = module.state_dict()
    expected = {"qweight", "scale"} | ({"bias"} if bias else set()) | (set() if parsed.symmetric else {"zero"})
    expected |= {"group_scale"} if parsed.integer_scales else set()
    assert set(state) == expected
    bits = parsed.weight_bits
    assert state["qweight"].shape == (40, 128 * bits // 8)
    assert state["qweight"].dtype == (torch.int8 if bits == 8 else torch.uint8)
    assert state["scale"].shape == ((40,) if bits == 8 or parsed.integer_scales else (40, parsed.groups(128)))
    if bias:
        assert torch.equal(state["bias"], linear.bias)
    other = Linear(128, 40, scheme, bias)
    assert other.load_state_dict(state) == nn.modules.module._IncompatibleKeys([], [])
    assert torch.equal(other.packed, module.packed)
    rebuilt = Linear(**module.spec)
    rebuilt.load_state_dict(state)
    assert torch.equal(rebuilt.packed, module.packed)
    reference = quantize_weight(linear.weight, parsed)
    assert torch.equal(module.quantized().qweight, reference.qweight) and module.quantized().bits == bits
    assert torch.equal(module.weight, reference.dequantize())


def test_low_bit_codes_are_stored_in_the_documented_order():
    linear = random_linear(32, 1, bias=False)
    linear.weight.copy_(torch.arange(32).remainder(4).sub(2).float())
    weight = quantize_weight(linear.weight, Scheme.parse("w2a8-g32"))
    byte = sum((int(q) + 2) << (2 * i) for i, q in enumerate(weight.qweight[0, :4]))
    state = Linear.from_quantized(weight, None, "w2a8-g32").state_dict()
    assert state["qweight"].tolist() == [[byte] * 8]


def test_asymmetric_with_zero_points_that_are_all_zero():
    weight = quantize_weight(torch.zeros(8, 64), Scheme.parse("w4a8-g64-asym"))
    module = Linear.from_quantized(weight, None, "w4a8-g64-asym")
    assert module.state_dict()["zero"].shape == (8, 1)
    Linear(64, 8, "w4a8-g64-asym", bias=False).load_state_dict(module.state_dict())
    assert torch.equal(module(torch.randn(3, 64)), torch.zeros(3, 8))


@pytest.mark.parametrize("scheme", SCHEMES + FLOAT_SCHEMES + INTEGER_SCALES)
def test_takes_the_checkpoint_of_the_float_layer(scheme):
    linear = random_linear()
    module = Linear(128, 40, scheme)
    module.load_state_dict(linear.state_dict())
    assert torch.equal(module.packed, Linear.from_float(linear, scheme).packed)
    model = nn.Sequential(Linear(128, 40, scheme), nn.ReLU())
    model.load_state_dict(nn.Sequential(linear, nn.ReLU()).state_dict())
    assert torch.equal(model[0].packed, module.packed)


def test_load_errors_are_those_of_torch():
    module, state = Linear(128, 40), Linear.from_float(random_linear()).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for qweight.*torch.Size.*40, 64"):
        module.load_state_dict({**state, "qweight": state["qweight"][:, :64]})
    assert module.is_empty, "a failed load must not change the module"
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        module.load_state_dict(random_linear(64, 40).state_dict())
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "scale"'):
        module.load_state_dict({k: v for k, v in state.items() if k != "scale"})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "extra"'):
        module.load_state_dict({**state, "extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "qweight", "scale", "bias"'):
        module.load_state_dict({})
    with pytest.raises(RuntimeError, match="dtype mismatch for qweight.*uint8.*int8"):
        module.load_state_dict({**state, "qweight": state["qweight"].view(torch.uint8)})
    with pytest.raises(RuntimeError, match="Unexpected.*bias"):
        Linear(128, 40, bias=False).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch|dtype mismatch"):
        Linear(128, 40, "w4a8-g32").load_state_dict(state)


def test_load_refuses_values_that_no_kernel_has():
    module, state = Linear(128, 40), Linear.from_float(random_linear()).state_dict()
    for key, value in {"qweight": -128, "scale": float("nan"), "bias": float("inf")}.items():
        bad = {k: v.clone() for k, v in state.items()}
        bad[key].view(-1)[3] = value
        with pytest.raises(RuntimeError, match=key):
            module.load_state_dict(bad)
    with pytest.raises(RuntimeError, match="NaN|nan|finite"):
        module.load_state_dict({"weight": torch.full((40, 128), torch.nan), "bias": torch.zeros(40)})
    with pytest.raises(RuntimeError, match="meta"):
        module.load_state_dict({k: v.to("meta") for k, v in state.items()})


def test_strict_false_loads_what_is_there():
    module, state = Linear.from_float(random_linear(seed=1)), Linear.from_float(random_linear()).state_dict()
    before = module.state_dict()
    result = module.load_state_dict({"bias": state["bias"], "extra": torch.zeros(1)}, strict=False)
    assert set(result.missing_keys) == {"qweight", "scale"} and result.unexpected_keys == ["extra"]
    after = module.state_dict()
    assert torch.equal(after["bias"], state["bias"])
    assert torch.equal(after["qweight"], before["qweight"]) and torch.equal(after["scale"], before["scale"])


def test_inference_only():
    module = Linear.from_float(random_linear())
    x = torch.randn(2, 128, requires_grad=True)
    with pytest.raises(RuntimeError, match="prepare_qat_"):
        module(x)
    with torch.no_grad():
        assert torch.equal(module(x), module(x.detach()))
    with torch.inference_mode():
        module(torch.randn(2, 128))


def test_wrong_input_is_an_error():
    module = Linear.from_float(random_linear())
    with pytest.raises(RuntimeError, match="128"):
        module(torch.randn(2, 127))
    with pytest.raises(RuntimeError, match="float"):
        module(torch.zeros(2, 128, dtype=torch.int32))


def test_bad_arguments():
    for sizes in [(0, 4), (4, 0), (-1, 4)]:
        with pytest.raises(ValueError, match="at least 1"):
            Linear(*sizes)
    with pytest.raises(ValueError, match="group size 64, got 96"):
        Linear(96, 8, "w4a8-g64")
    with pytest.raises(ValueError, match="group"):
        Linear.from_float(random_linear(96, 8), "w4a8-g64")
    weight = quantize_weight(torch.randn(8, 64), Scheme.parse("w4a8-g64"))
    with pytest.raises(ValueError, match="not scheme w8a8"):
        Linear.from_quantized(weight, None, "w8a8")
    with pytest.raises(ValueError, match=r"needs \[8\]"):
        Linear.from_quantized(weight, torch.zeros(7), "w4a8-g64")
    with pytest.raises(ValueError, match="NaN or infinite"):
        Linear.from_quantized(weight, torch.full((8,), torch.nan), "w4a8-g64")
    asymmetric = quantize_weight(torch.rand(8, 64), Scheme.parse("w4a8-g64-asym"))
    with pytest.raises(ValueError, match="use w4a8-g64-asym"):
        Linear.from_quantized(asymmetric, None, "w4a8-g64")


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g64-asym"])
def test_copies_give_the_same_bits(scheme):
    module, x = Linear.from_float(random_linear(), scheme, activation="gelu"), torch.randn(3, 128)
    expected = module(x)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    for copied in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(stream, weights_only=False),
    ):
        assert torch.equal(copied(x), expected) and copied.scheme == module.scheme
    module.packed.zero_()
    with pytest.raises(RuntimeError):
        module(x)


def test_dtype_changes_leave_the_weights_alone():
    module = Linear.from_float(random_linear(), "w4a8-g32")
    packed, x = module.packed.clone(), torch.randn(2, 128)
    for change in (lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.double(), lambda m: m.to(torch.float16)):
        change(module)
        assert torch.equal(module.packed, packed) and module.packed.dtype == torch.uint8
    assert module(x).dtype == torch.float32
    assert module.state_dict()["scale"].dtype == torch.float32


def test_meta_device():
    module = Linear.from_float(random_linear(), "w4a8-g32-asym").to("meta")
    assert module(torch.randn(2, 128, device="meta")).shape == (2, 40)
    shapes = {k: (v.shape, v.dtype) for k, v in module.state_dict().items()}
    real = Linear.from_float(random_linear(), "w4a8-g32-asym")
    assert shapes == {k: (v.shape, v.dtype) for k, v in real.state_dict().items()}
    module.load_state_dict(real.state_dict())
    assert torch.equal(module.packed, real.packed)
    with torch.device("meta"):
        assert Linear(64, 32).is_empty
    empty = Linear.from_float(random_linear(), "w4a8-g32-asym").to("meta").to_empty(device="cpu")
    empty.load_state_dict(real.state_dict())
    assert torch.equal(empty.packed, real.packed)


def test_other_devices_are_refused_in_words():
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = Linear.from_float(random_linear())
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 128, device="cuda")
        with pytest.raises(RuntimeError, match='input is on cuda:0.*to\\("cpu"\\)'):
            module(x)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g64"])
def test_compile_whole_graph_with_dynamic_batch(scheme):
    model = nn.Sequential(Linear.from_float(random_linear(), scheme, activation="relu"), nn.LayerNorm(40)).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for batch in (2, 3, 17):
            x = torch.randn(batch, 128)
            torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g64"])
def test_export_with_dynamic_batch(scheme):
    model = nn.Sequential(Linear.from_float(random_linear(), scheme), nn.ReLU()).eval()
    program = torch.export.export(model, (torch.randn(2, 128),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    loaded = torch.export.load(stream).module()
    for batch in (2, 5, 1):
        x = torch.randn(batch, 128)
        assert torch.equal(loaded(x), model(x))


def test_properties_match_the_layer_it_replaces():
    linear = random_linear()
    module = Linear.from_float(linear)
    assert (module.in_features, module.out_features) == (128, 40)
    assert torch.equal(module.bias, linear.bias)
    assert (module.weight - linear.weight).abs().max() <= linear.weight.abs().max() / 127 / 2 * 1.001
    assert Linear.from_float(random_linear(bias=False)).bias is None
    assert "in_features=128, out_features=40, bias=True, scheme=w8a8" in repr(module)
    assert not list(module.parameters()) and [n for n, _ in module.named_buffers()] == ["packed"]


def test_extremes_of_the_input():
    linear = random_linear(64, 32, bias=False)
    module = Linear.from_float(linear)
    assert torch.equal(module(torch.zeros(2, 64)), torch.zeros(2, 32))
    big = torch.full((1, 64), 3e38)
    assert torch.isfinite(module(torch.full((1, 64), 1e30))).all() and module(big).shape == (1, 32)
    assert torch.isnan(module(torch.full((1, 64), torch.nan))).all()
    mixed = torch.randn(3, 64)
    mixed[1, 5] = torch.inf
    y = module(mixed)
    assert torch.isnan(y[1]).all() and torch.isfinite(y[[0, 2]]).all(), "a bad row must not touch the others"
    weight = quantize_weight(torch.full((32, 64), -1.0), "w8a8")
    ones = Linear.from_quantized(weight, None, "w8a8")(torch.ones(1, 64))
    torch.testing.assert_close(ones, torch.full((1, 32), -64.0), rtol=1e-5, atol=0)


def test_threads_do_not_change_the_result():
    module, x = Linear.from_float(random_linear(256, 512)), torch.randn(64, 256)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = module(x)
        torch.set_num_threads(2)
        assert torch.equal(module(x), one)
    finally:
        torch.set_num_threads(before)
    assert ops.isa() in ops.available_isas()
