"""Modules that a model calls from somewhere else than from among its children."""

import pytest
import torch
from torch import nn

from kdnative import load, save
from kdnative.convert import convert_
from kdnative.nn import EncoderLayer, Linear
from tests.small_models import bert, rows


class Walks(nn.Module):
    """Calls its layers from where ``hold`` puts them."""

    def __init__(self, hold):
        super().__init__()
        for number in range(2):
            self.add_module(str(number), nn.Linear(64, 64))
        self.free = nn.Linear(64, 64)
        self.hold = hold([self.get_submodule(str(n)) for n in range(2)])

    def forward(self, x):
        held = self.hold.values() if isinstance(self.hold, dict) else self.hold
        for layer in held:
            x = (layer[0] if isinstance(layer, list) else layer)(x)
        return self.free(x)


HOLDERS = {
    "list": list,
    "tuple": tuple,
    "dict": lambda layers: dict(enumerate(layers)),
    "nested": lambda layers: [[layer] for layer in layers],
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_layers_in_plain_containers_stay_in_float(hold, tmp_path):
    model, x = Walks(hold).eval(), torch.randn(3, 64)
    report = convert_(model, "w8a8")
    assert [type(model.get_submodule(name)) for name in ("0", "1", "free")] == [nn.Linear, nn.Linear, Linear]
    assert "outside its child modules" in rows(report)["0"].reason
    save(model, tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "m", into=Walks(hold))(x), model(x))


def test_a_pattern_that_asks_for_such_a_layer_is_refused():
    with pytest.raises(ValueError, match="0: the model also holds it outside its child modules"):
        convert_(Walks(list), {"0": "w8a8"})


@pytest.mark.parametrize("held", ["a layer", "a part of a layer"])
def test_parts_of_an_encoder(held):
    model = bert()
    layer = model.bert.encoder.layer[0]
    model.elsewhere = [layer if held == "a layer" else layer.output.dense]
    found = rows(convert_(model))
    assert "outside its child modules" in found["bert"].reason
    assert type(model.bert.encoder.layer[0]) is not EncoderLayer and type(model.bert.encoder.layer[1]) is EncoderLayer


def test_the_text_projection_of_openclip():
    transformer = pytest.importorskip("open_clip").transformer
    sizes = {"context_length": 16, "vocab_size": 99, "width": 64, "heads": 4, "layers": 2, "output_dim": 64}
    tower = transformer.TextTransformer(**sizes, proj_bias=True, pool_type="last", no_causal_mask=True).eval()
    ids = torch.randint(0, 99, (2, 16))
    with torch.inference_mode():
        expected, report = tower(ids), convert_(tower)
        assert "multiplies by its weight directly" in rows(report)["text_projection"].reason
        assert torch.cosine_similarity(tower(ids), expected).min() > 0.99


def test_parameters_without_a_shape():
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet: run the model once"):
        convert_(nn.Sequential(nn.LazyLinear(64)))
