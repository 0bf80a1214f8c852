"""Rows of masked tokens are 0 in native layers, so models that read these rows keep their own."""

from __future__ import annotations

import pytest
import torch

from kdnative import convert_
from kdnative.nn import EncoderLayer, Linear
from tests.nn.encoder_models import randomized
from tests.nn.layer_configs import IMAGES, SIZES, WORDS
from tests.small_models import rows

transformers = pytest.importorskip("transformers", "5.0")


@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
def test_texts_of_siglip_differ(kind):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}TextConfig")(**WORDS)
    model = randomized(getattr(transformers, f"{kind}TextModel")(config))
    ids, mask = torch.randint(2, 99, (3, 11)), torch.ones(3, 11, dtype=torch.long)
    mask[:, 6:] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).pooler_output
        report = convert_(model)
        actual = model(ids, attention_mask=mask).pooler_output
    assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99
    assert not torch.allclose(actual[0], actual[1], atol=1e-3)
    found = rows(report)
    (name,) = (name for name in found if name.endswith("layers.1"))
    assert "not fused: its model takes the last token for the whole text, padding or not" in found[name].reason
    assert type(model.get_submodule(f"{name}.mlp.fc1")) is Linear


@pytest.mark.parametrize("kind", ["Siglip", "Siglip2"])
def test_images_of_siglip_are_fused(kind):
    text = getattr(transformers, f"{kind}TextConfig")(**WORDS)
    sizes = IMAGES if kind == "Siglip" else {**SIZES, "num_patches": 16, "patch_size": 8}
    vision = getattr(transformers, f"{kind}VisionConfig")(**sizes)
    config = getattr(transformers, f"{kind}Config")(text_config=text.to_dict(), vision_config=vision.to_dict())
    model = getattr(transformers, f"{kind}Model")(config)
    convert_(model)
    fused = [name for name, module in model.named_modules() if isinstance(module, EncoderLayer)]
    assert len(fused) == 2 and all(name.startswith("vision_model") for name in fused)
