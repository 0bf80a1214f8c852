"""Models in which every number is the same, so that a mixture of two shows."""

from pathlib import Path

import torch
from torch import nn

from kdnative.convert import convert_


def float_model(value):
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


def model_of(value):
    """A native linear, a norm and a float linear that hold ``value`` only."""
    return convert_(float_model(value), {"0": "w8a8"}).model


def value_of(model):
    """The one value of a model, or what values it mixes."""
    parts = (model[0].weight, model[0].bias, model[1].weight, model[1].bias, model[2].weight, model[2].bias)
    with torch.no_grad():
        values = {round(float(edge), 3) for part in parts for edge in (part.min(), part.max())}
    return values.pop() if len(values) == 1 else sorted(values)


class Tokenizer:
    """Writes files, as a tokenizer would."""

    def __init__(self, **files):
        self.files = files

    def save_pretrained(self, folder):
        for name, text in self.files.items():
            (Path(folder) / name.replace("_", ".")).write_text(text)
