"""Checkpoints: a folder of plain tensors and a description of the model, the same on every machine.

::

    model.safetensors   the state dict: plain tensors, each stored once
    kdnative.json       format and library version, shapes and dtypes, SHA-256 of model.safetensors, the modules,
                        generation configs, frozen parameters, and the SHA-256 of all this
    config.json         Hugging Face configuration, when the model is one of transformers; tokenizer files if given

Loading runs no code from a checkpoint: no pickle, and only classes of torch.nn, kdnative and transformers' models.
"""

from .inspection import file_size, inspect
from .loading import load
from .manifest import FORMAT, CheckpointError
from .writing import save

__all__ = ["FORMAT", "CheckpointError", "file_size", "inspect", "load", "save"]
