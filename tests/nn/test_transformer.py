"""``nn.TransformerEncoder`` and its layer as one operator: against the oracle, against torch, and as modules."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
import torch
from torch import nn

from kdnative import convert_, load, ops, save
from kdnative.checkpoint import CheckpointError
from kdnative.nn import Encoder, Linear, TransformerEncoder
from tests.nn import encoder_oracle
from tests.nn.encoder_models import check_close, encoder_from_torch, jitter


@pytest.fixture(autouse=True)
def _two_threads(_threads):
    torch.set_num_threads(2)


def encoder(width=48, heads=3, ffn=100, layers=2, norm=None, **options):
    """A random encoder whose attention and feed-forward parts matter as much as the residual."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, heads, ffn, **{"batch_first": True, **options})
    model = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
    return jitter(model)


def native(model, scheme="w8a8"):
    found = encoder_from_torch(model, scheme)
    assert isinstance(found, TransformerEncoder), found
    return found


def batch(size, length, width=48, seed=1):
    """Hidden states, and a mask of what is kept with holes and one sequence without any token."""
    g = torch.Generator().manual_seed(seed)
    keep = torch.rand(size, length, generator=g) < 0.8
    keep[0] = True
    if size > 2:
        keep[1] = False
    return torch.randn(size, length, width, generator=g), keep


def causal_mask(length, kind=torch.float32):
    mask = nn.Transformer.generate_square_subsequent_mask(length)
    return mask != 0 if kind is torch.bool else mask.to(kind)


SETTINGS = {
    "post": {},
    "pre": {"norm_first": True},
    "gelu": {"activation": "gelu"},
    "no biases": {"bias": False},
    "silu, one layer": {"activation": nn.functional.silu, "layers": 1},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("size", "length"), [(1, 1), (3, 7), (2, 33), (5, 130)])
@pytest.mark.parametrize("causal", [False, True])
def test_matches_the_oracle_and_torch(settings, size, length, causal):
    model = encoder(**SETTINGS[settings])
    ours, (x, keep) = native(model), batch(size, length)
    mask = causal_mask(length) if causal else None
    actual = ours(x, mask=mask, src_key_padding_mask=~keep)
    check_close(actual, encoder_oracle.encode_states(ours.spec, ours.state_dict(), x, keep, causal), keep)
    with torch.no_grad():
        expected = model(x, mask=mask, src_key_padding_mask=torch.zeros_like(keep, dtype=torch.float32))
    whole = ours(x, mask=mask)  # torch gives NaN to a sequence of padding alone
    assert torch.cosine_similarity(whole, expected, dim=-1).min() > 0.99


@pytest.mark.parametrize("shape", [(1, 5), (3, 40)])
@pytest.mark.parametrize("causal", [0, 1])
def test_every_instruction_set(isa, shape, causal):
    ours, (x, keep) = native(encoder(80, 5, 112, norm_first=True)), batch(*shape, width=80)
    actual = ops.encoder_layers(ours.packed, x, keep, causal)
    check_close(actual, encoder_oracle.encode_states(ours.spec, ours.state_dict(), x, keep, bool(causal)), keep)


def test_the_oracle_tells_formulas_apart():
    ours, (x, keep) = native(encoder()), batch(3, 9)
    for change in ({"causal": True}, {"state": "layers.1.qkv.bias"}, {"state": "layers.0.attention_norm.weight"}):
        state = ours.state_dict()
        if "state" in change:
            state[change["state"]] = state[change["state"]] * 0
        wrong = encoder_oracle.encode_states(ours.spec, state, x, keep, change.get("causal", False))
        with pytest.raises(AssertionError):
            check_close(ours(x, src_key_padding_mask=~keep), wrong, keep)


@pytest.mark.parametrize("scheme", ["w4a8-g32", "w2a8-g64-asym", "w4a8-g32-int"])
def test_few_bits(scheme):
    mixed = lambda name: "w8a8" if "linear" in name else scheme  # noqa: E731
    ours, (x, keep) = encoder_from_torch(encoder(64, 4, 96), mixed), batch(3, 9, width=64)
    assert ours.spec["layers"][0]["qkv"] == scheme and ours.spec["layers"][0]["ffn_in"] == "w8a8"
    actual = ours(x, src_key_padding_mask=~keep)
    check_close(actual, encoder_oracle.encode_states(ours.spec, ours.state_dict(), x, keep), keep)


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_shapes_and_strides():
    model, (x, keep) = encoder(), batch(3, 9)
    ours, second = native(model), native(encoder(batch_first=False))
    expected = ours(x, src_key_padding_mask=~keep)
    swapped = second(x.transpose(0, 1).contiguous(), src_key_padding_mask=~keep)
    assert torch.equal(swapped, expected.transpose(0, 1)) and swapped.is_contiguous()
    assert torch.equal(ours(x[2], src_key_padding_mask=~keep[2]), expected[2])
    assert torch.equal(second(x[2], src_key_padding_mask=~keep[2]), expected[2])
    wide = torch.zeros(3, 18, 96)
    wide[:, ::2, ::2] = x
    assert torch.equal(ours(wide[:, ::2, ::2], src_key_padding_mask=~keep), expected)
    wide[:, ::2, :48] = x
    assert torch.equal(ours(wide[:, ::2, :48], src_key_padding_mask=~keep), expected)
    assert torch.equal(ours(x[:1].expand(4, -1, -1)), ours(x[:1]).expand(4, -1, -1))
    for size, length in ((0, 5), (2, 0), (0, 0)):
        assert ours(torch.zeros(size, length, 48)).shape == (size, length, 48)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes_of_activations(dtype):
    final = nn.LayerNorm(48)
    model, (x, _) = encoder(norm=final).to(dtype), batch(2, 9)
    x = x.to(dtype)
    ours = native(model)
    actual = ours(x)
    assert actual.dtype == dtype
    with torch.no_grad():
        assert torch.cosine_similarity(actual.float(), model(x).float(), dim=-1).min() > 0.99


def test_kinds_of_masks():
    ours, (x, keep) = native(encoder()), batch(3, 9)
    expected = ours(x, src_key_padding_mask=~keep)
    dropped = torch.zeros(3, 9).masked_fill(~keep, -math.inf)
    assert torch.equal(ours(x, src_key_padding_mask=dropped), expected)
    assert torch.equal(ours(x, None, ~keep), expected) and torch.equal(ours(x, is_causal=False), ours(x))
    causal = ours(x, is_causal=True)
    assert not torch.equal(causal, ours(x))
    for mask in (causal_mask(9), causal_mask(9, torch.bool), causal_mask(9, torch.bfloat16)):
        assert torch.equal(ours(x, mask), causal) and torch.equal(ours(x, src_mask=mask), causal)
        assert torch.equal(ours(x, mask, is_causal=True), causal)


def test_causal_attention_does_not_look_ahead():
    ours, (x, keep) = native(encoder()), batch(3, 40)
    out = ours(x, src_key_padding_mask=~keep, is_causal=True)
    later = x.clone()
    later[:, 17:] = torch.randn(3, 23, 48)
    assert torch.equal(ours(later, src_key_padding_mask=~keep, is_causal=True)[:, :17], out[:, :17])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": torch.zeros(9, 9)}, RuntimeError, r"no mask over pairs of tokens but the causal one.*keep="),
        ({"mask": torch.ones(9, 9).triu(1)}, RuntimeError, "but the causal one"),
        ({"mask": torch.ones(9, 9, dtype=torch.bool).tril(-1)}, RuntimeError, "but the causal one"),
        ({"src_mask": torch.zeros(6, 9, 9)}, ValueError, r"got shape \[6, 9, 9\] for T = 9"),
        ({"mask": causal_mask(8)}, ValueError, r"got shape \[8, 8\] for T = 9"),
        ({"src_key_padding_mask": torch.full((2, 9), -1.0)}, RuntimeError, "0 for tokens and -inf for padding only"),
        (
            {"src_key_padding_mask": torch.zeros(2, 8, dtype=torch.bool)},
            RuntimeError,
            r"it must be \[2, 9\], one number",
        ),
        ({"src": torch.zeros(2, 9, 47)}, RuntimeError, "hidden_size is 47, but the packed encoder is 48 wide"),
        ({"src": torch.zeros(48)}, RuntimeError, r"must be \[batch, tokens, width\] \(got shape"),
    ],
)
def test_arguments_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        native(encoder())(**{"src": torch.zeros(2, 9, 48), **arguments})


def test_training_mode_is_refused():
    ours, (x, _) = native(encoder()).train(), batch(2, 5)
    with pytest.raises(RuntimeError, match="for inference"):
        ours(x)
    with torch.no_grad():
        assert torch.equal(ours(x), ours.eval()(x))
    with pytest.raises(RuntimeError, match="TransformerEncoder is for inference and its input requires grad"):
        ours(x.requires_grad_())


@pytest.mark.parametrize(("size", "length"), [(1, 5), (40, 7), (3, 130)])
def test_results_do_not_depend_on_threads(size, length):
    ours, (x, keep) = native(encoder()), batch(size, length)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(ours(x, src_key_padding_mask=~keep, is_causal=True))
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


# -- as a module -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("norm", [None, nn.LayerNorm(48)])
def test_opcheck_compile_and_export(causal, norm):
    ours, (x, keep) = native(encoder(norm=norm, norm_first=True, batch_first=False)), batch(3, 9)
    operator = torch.ops.kdnative.encoder_layers.default
    torch.library.opcheck(operator, (ours.packed, x, keep, causal))
    torch.library.opcheck(operator, (ours.packed, x, None, causal, None, ~keep))
    mask = causal_mask(3) if causal else None
    with torch.no_grad():
        expected = ours(x, mask, src_key_padding_mask=~keep.T)
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x, mask, src_key_padding_mask=~keep.T), expected)
        exported = torch.export.export(ours, (x,), {"mask": mask, "src_key_padding_mask": ~keep.T}).module()
        assert torch.equal(exported(x, mask=mask, src_key_padding_mask=~keep.T), expected)


def test_state_copies_and_pickles():
    model = encoder(64, 4, 96, norm=nn.LayerNorm(64, eps=1e-3))
    ours, (x, _) = native(model, "w4a8-g32-asym"), batch(2, 9, width=64)
    expected, state = ours(x), ours.state_dict()
    assert {name for name in state if not name.startswith("layers.")} == {"norm.weight", "norm.bias"}
    assert not any(name.startswith("embeddings") for name in state)
    fresh = TransformerEncoder.from_spec(json.loads(json.dumps(ours.spec)))
    fresh.load_state_dict(state)
    for other in (fresh, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x), expected) and other.spec == ours.spec
    with pytest.raises(RuntimeError, match='Missing key.*"layers.1.qkv.scale"'):
        fresh.load_state_dict({k: v for k, v in state.items() if k != "layers.1.qkv.scale"})
    with pytest.raises(RuntimeError, match="Unexpected key.*pooler"):
        fresh.load_state_dict({**state, "pooler.qweight": torch.zeros(1)})
    assert "layers=2, hidden_size=64, schemes=w4a8-g32-asym" in repr(ours)


class Classifier(nn.Module):
    """A model of somebody's own: one whole encoder, and layers in a list."""

    def __init__(self, width=64):
        super().__init__()
        self.words = nn.Embedding(50, width)
        self.encoder = encoder(width, 4, 96)
        self.more = nn.ModuleList(encoder(width, 4, 96, norm_first=True).layers)
        self.head = nn.Linear(width, 3)

    def forward(self, ids, padding=None):
        x = self.encoder(self.words(ids), src_key_padding_mask=padding)
        for layer in self.more:
            x = layer(x, src_key_padding_mask=padding)
        return self.head(x.mean(1))


def test_convert(tmp_path):
    model, ids = Classifier().eval(), torch.randint(0, 50, (3, 9))
    with torch.no_grad():
        expected = model(ids)
    report = convert_(model, "w8a8")
    assert report.totals["fused"] == 2 * (6 + 6) + 3  # six parts a layer, the encoder, and each layer of the list
    assert report.totals["bytes_after"] == sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    rows = {row.name: row for row in report.rows}
    assert rows["encoder.layers.1.self_attn"].shape == [192, 64] and rows["encoder.layers.1.self_attn"].scheme == "w8a8"
    kinds = [type(module) for module in (model.encoder, *model.more, model.words, model.head)]
    assert kinds[:3] == [TransformerEncoder] * 3 and isinstance(model.head, nn.Linear)
    with torch.no_grad():
        actual = model(ids)
        assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99
        save(model, tmp_path / "m")
        assert torch.equal(load(tmp_path / "m", into=Classifier())(ids), actual)
    assert model.encoder is not None and convert_(model).totals["fused"] == 0


def test_bare_encoder_and_its_checkpoint(tmp_path):
    for make in (encoder, lambda: encoder().layers[0]):
        model, (x, _) = make(), batch(2, 9)
        assert convert_(model, "w8a8").model is model and type(model) is TransformerEncoder
        save(model, tmp_path / "m")
        for other in (None, make()):
            loaded = load(tmp_path / "m", into=other)
            assert type(loaded) is TransformerEncoder and torch.equal(loaded(x), model(x))
        with pytest.raises(CheckpointError, match="can't take the place of this TransformerEncoder"):
            load(tmp_path / "m", into=encoder(layers=3))
    assert load(tmp_path / "m").spec == model.spec


def test_inside_nn_transformer():
    torch.manual_seed(0)
    model = nn.Transformer(64, 4, 2, 2, 96, batch_first=True).eval()
    src, tgt = torch.randn(2, 7, 64), torch.randn(2, 5, 64)
    with torch.no_grad():
        expected = model(src, tgt)
        convert_(model, "w8a8")
        assert type(model.encoder) is TransformerEncoder and isinstance(model.decoder.layers[0].linear1, Linear)
        assert torch.cosine_similarity(model(src, tgt), expected, dim=-1).min() > 0.99


def _own_activation(x):
    return x.clamp(0, 6)


class OwnLayer(nn.TransformerEncoderLayer):
    pass


def _hooked(model):
    model.layers[1].self_attn.register_forward_hook(lambda *_: None)
    return model


def test_layers_that_share_a_weight():
    shared, apart, x = encoder(), encoder(), torch.randn(2, 5, 48)
    with torch.no_grad():
        apart.layers[1].linear1.weight.copy_(apart.layers[0].linear1.weight)
    shared.layers[1].linear1.weight = shared.layers[0].linear1.weight
    reason = {row.name: row.reason for row in convert_(shared).rows}["layers.1.linear1"]
    convert_(apart)
    assert type(shared) is TransformerEncoder and torch.equal(shared(x), apart(x))
    assert reason.endswith("; its weight was shared with layers.0.linear1")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: encoder(activation=_own_activation), "its activation _own_activation has no kernel"),
        (lambda: encoder(norm=nn.LayerNorm(48, elementwise_affine=False)), "its final norm is no nn.LayerNorm"),
        (lambda: encoder(norm=nn.RMSNorm(48)), "its final norm is no nn.LayerNorm"),
        (
            lambda: nn.TransformerEncoder(OwnLayer(48, 3, 100, batch_first=True), 2, enable_nested_tensor=False),
            "layers.0 is a OwnLayer of tests.nn.test_transformer, which may compute something else",
        ),
        (lambda: _hooked(encoder()), "has hooks"),
    ],
)
def test_what_is_not_fused(make, reason):
    model, (x, _) = make().eval(), batch(2, 9)
    with torch.no_grad():
        expected = model(x)
    report = convert_(model, {"*": "w8a8"})
    row = report.rows[0]
    assert row.action == "kept" and reason in row.reason and report.totals["fused"] == 0
    assert not any(isinstance(module, (TransformerEncoder, Encoder)) for module in model.modules())
    projections = [m for name, m in model.named_modules() if name.endswith("out_proj")]
    assert not any(isinstance(m, Linear) for m in projections), "attention reads this weight without calling the layer"
    with torch.no_grad():
        assert torch.cosine_similarity(model(x), expected, dim=-1).min() > 0.99


def test_keeping_a_part_keeps_the_encoder_apart():
    model, (x, _) = encoder(64, 4, 96), batch(2, 9, width=64)
    with torch.no_grad():
        expected = model(x)
    report = convert_(model, "w8a8", keep=["layers.0.self_attn"])
    assert "layers.0.self_attn stays in float (asked for by keep=" in report.rows[0].reason
    with torch.no_grad():
        assert torch.equal(model(x), expected)  # its layers are read by torch's fast path
    assert convert_(encoder(), fuse=False).totals["fused"] == 0
    assert "has a scheme with float activations" in convert_(encoder(64, 4, 96), "w8a16").rows[0].reason
    mixed = convert_(encoder(64, 4, 96), {"*.self_attn": "w4a8-g32", "*": "w8a8"})
    assert {row.scheme for row in mixed.rows if "self_attn" in row.name} == {"w4a8-g32"}


@pytest.mark.parametrize("where", ["self_attn.in_proj_weight", "self_attn.in_proj_bias", "linear2.weight"])
def test_values_that_are_not_finite(where):
    model = encoder()
    with torch.no_grad():
        model.layers[1].get_parameter(where).view(-1)[3] = math.nan
    with pytest.raises(ValueError, match=r"nothing was converted.*\n.*layers.1.*NaN or infinite values"):
        convert_(model)
    assert type(model.layers[1].self_attn) is nn.MultiheadAttention
