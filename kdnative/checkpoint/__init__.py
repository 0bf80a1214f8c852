"""Checkpoints: a folder of plain tensors and a description of the model, the same on every machine.

::

    kdnative.json                format and library version, shapes and dtypes, the file of tensors and its SHA-256, the
                                 modules, generation configs, frozen parameters, and the SHA-256 of all this
    kdnative-DIGEST.safetensors  the state dict: plain tensors, each stored once; named by the first 16 digits of its
                                 SHA-256, so that no file ever changes under a name that is in use
    ...                          the tokenizer's files, if one was given

The names are not those of transformers, which would take such a folder for one of its own and fill the layers that it
does not know with random weights.

Loading runs no code from a checkpoint: no pickle, and only classes of torch.nn, kdnative, and the kinds of models of
transformers that :mod:`kdnative.checkpoint.allowed` lists.
"""

from kdnative.checkpoint.inspection import file_size, inspect
from kdnative.checkpoint.loading import load
from kdnative.checkpoint.manifest import FORMAT, CheckpointError
from kdnative.checkpoint.writing import save

__all__ = ["FORMAT", "CheckpointError", "file_size", "inspect", "load", "save"]
