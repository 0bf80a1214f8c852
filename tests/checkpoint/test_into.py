"""Loading into a model that the caller made: every family of encoders, and models of another dtype or mode."""

import pytest
import torch
from torch import nn

from kdnative.checkpoint import CheckpointError, inspect, load, save
from kdnative.convert import convert_
from kdnative.models.families import TABLE
from kdnative.nn import Embedding, Encoder, MultiheadAttention, TransformerEncoder
from tests.checkpoints import edit, mlp, output
from tests.small_models import bert

SIZES = {
    "hidden_size": 48, "num_attention_heads": 3, "intermediate_size": 100, "num_hidden_layers": 2, "vocab_size": 101,
    "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
OTHER_SIZES = {
    "DistilBertModel": {"dim": 48, "n_heads": 3, "hidden_dim": 100, "n_layers": 2, "vocab_size": 101},
    "ElectraModel": {"embedding_size": 48},
    "MPNetModel": {"max_position_embeddings": 42, "pad_token_id": 1},
}


def family(kind, seed, **changes):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, kind):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    base = {} if kind == "DistilBertModel" else SIZES
    torch.manual_seed(seed)
    model = getattr(transformers, kind)
    return model(model.config_class(**{**base, **OTHER_SIZES.get(kind, {}), **changes})).eval()


@pytest.mark.parametrize("kind", [kind for row in TABLE for kind in row.models])
def test_every_family_of_encoders(tmp_path, kind):
    model, ids = family(kind, 0), torch.randint(3, 100, (2, 9))
    convert_(model)
    assert type(model) is Encoder
    save(model, tmp_path / "m")
    expected = model(ids)[0]
    other = family(kind, 1)
    with torch.no_grad():
        assert not torch.allclose(other(ids)[0], expected, atol=0.05)
    assert load(tmp_path / "m", into=other) is other and type(other) is Encoder
    for loaded in (load(tmp_path / "m"), other, load(tmp_path / "m", into=convert_(family(kind, 2)).model)):
        assert torch.equal(loaded(ids)[0], expected)
    words = {"vocab_size": 90}
    width = {"dim": 96, "n_heads": 6} if kind == "DistilBertModel" else {"hidden_size": 96, "num_attention_heads": 6}
    for changes in (words, width):
        with pytest.raises(CheckpointError, match="can't take the place of this"):
            load(tmp_path / "m", into=family(kind, 1, **changes))


def test_families_do_not_take_each_others_place(tmp_path):
    save(convert_(family("BertModel", 0)).model, tmp_path / "m")
    for other in ("RobertaModel", "DistilBertModel"):
        with pytest.raises(CheckpointError, match=f"can't take the place of this {other}"):
            load(tmp_path / "m", into=family(other, 1))


def test_a_native_module_of_other_settings_is_refused(tmp_path):
    """Its tensors have the same shapes; what they mean is another thing."""
    save(convert_(bert().bert).model, tmp_path / "m")
    for change in ({"num_attention_heads": 2}, {"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}):
        other = convert_(bert(1, **change).bert).model
        before = other.state_dict()
        with pytest.raises(CheckpointError, match="can't take the place of this Encoder.*settings"):
            load(tmp_path / "m", into=other)
        assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_a_native_module_that_a_damaged_description_can_not_build(tmp_path):
    save(convert_(bert().bert).model, tmp_path / "m")
    edit(tmp_path / "m", lambda m: m["modules"][""].update(config={}))
    for into in (bert().bert, convert_(bert().bert).model):
        with pytest.raises(CheckpointError, match="kdnative.json: the model can't be rebuilt"):
            load(tmp_path / "m", into=into)


# -- dtypes ------------------------------------------------------------------------------------------------------------


class Custom(nn.Module):
    """With everything that has a dtype of its own: parameters, a buffer in the state dict and one beside it."""

    def __init__(self):
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(100, 64), nn.Linear(64, 64), nn.Linear(64, 2)
        self.norm = nn.BatchNorm1d(64)
        self.register_buffer("position", torch.randn(64), persistent=False)

    def forward(self, ids):
        hidden = self.body(self.words(ids) + self.position)
        return self.head(self.norm(hidden.flatten(0, 1)))


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("saved", DTYPES)
@pytest.mark.parametrize("given", DTYPES)
@pytest.mark.parametrize("make", [mlp, bert, Custom, lambda: bert(kind="BertForMaskedLM")])
def test_the_dtype_of_the_checkpoint_wins(tmp_path, saved, given, make):
    model = make().eval().to(saved)
    convert_(model)
    save(model, tmp_path / "m")
    other = make().eval()
    other.load_state_dict({k: torch.zeros_like(v) for k, v in other.state_dict().items()})
    parameters = {id(parameter) for parameter in other.to(given).parameters()}
    load(tmp_path / "m", into=other)
    assert output(other).dtype == saved and torch.equal(output(other), output(model))
    assert {id(parameter) for parameter in other.parameters()} <= parameters, "optimizers hold these objects"
    assert [(n, t.dtype) for n, t in other.named_parameters()] == [(n, t.dtype) for n, t in model.named_parameters()]
    assert output(other.to(torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("saved", DTYPES)
@pytest.mark.parametrize("given", DTYPES)
def test_the_dtype_of_a_whole_native_model_too(tmp_path, saved, given):
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True)
    makes = (
        lambda: nn.Embedding(100, 64),
        lambda: bert().bert,
        lambda: nn.TransformerEncoder(layer, 2, nn.LayerNorm(64), enable_nested_tensor=False),
        lambda: nn.MultiheadAttention(64, 4),
    )
    kinds = (Embedding, Encoder, TransformerEncoder, MultiheadAttention)
    hidden = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)).to(saved)
    for make, kind in zip(makes, kinds, strict=True):
        model = convert_(make().eval().to(saved), {"*": "w8a8"}).model
        assert type(model) is kind
        save(model, tmp_path / "m")
        inputs = (torch.arange(10)[None],) if kind in (Embedding, Encoder) else (hidden,)
        inputs *= 3 if kind is MultiheadAttention else 1
        with torch.inference_mode():
            expected = model(*inputs)
            for other in (make().eval().to(given), convert_(make().eval().to(given), {"*": "w8a8"}).model):
                loaded = load(tmp_path / "m", into=other)(*inputs)
                a, b = (y if isinstance(y, torch.Tensor) else y[0] for y in (loaded, expected))
                assert a.dtype == saved and torch.equal(a, b)


def test_a_model_that_does_not_fit_gets_its_dtypes_back(tmp_path):
    save(convert_(mlp().to(torch.bfloat16)).model, tmp_path / "m")
    edit(tmp_path / "m", lambda m: m.update(attributes={"4": {"nothing": 1}}))  # the last thing to be looked at
    other = mlp(1)
    with pytest.raises(CheckpointError, match="nothing is not a number"):
        load(tmp_path / "m", into=other)
    assert {t.dtype for t in other.parameters()} == {torch.float32} and output(other).dtype == torch.float32


# -- modes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_layers_of_other_settings_have_the_mode_of_those_they_replace(tmp_path, training):
    class Model(nn.Sequential):
        """Not one that a file can build."""

    def make(rate, width):
        return Model(nn.Linear(8, width), nn.Dropout(rate), nn.Linear(width, 8))

    save(make(0.3, 16), tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    other = make(0.1, 24).train(training)
    other[0].requires_grad_(False)
    load(tmp_path / "m", into=other)
    assert other[0].out_features == 16 and other[1].p == 0.3
    assert {module.training for module in other.modules()} == {training}
    assert [p.requires_grad for p in other.parameters()] == [False, False, True, True]
