"""How large the numbers of a configuration from a file may be.

Models are built on the meta device, where a tensor of any size costs nothing. What does cost is a loop in Python that
counts up to a number, and a tensor that a constructor allocates all the same.
:func:`kdnative.checkpoint.isolation.limited_modules` ends loops that make modules; this is about the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["LAYERS", "LAYERS_IN_ALL", "allocated", "is_layer_count", "largest", "values_in_python"]

LAYERS, LAYERS_IN_ALL = 1024, 4096  # 126 are the most of a known model
_LABELS = 2**17  # a number becomes that many names
_ANY = 2**24  # no known model has more positions than 10,485,760, or more tokens
_ANY_TOKEN = 2**31  # in generation configs, of whose numbers nothing is made
_ANY_FLOAT = 3.5e38  # a little more than float32 holds
_LAYER_COUNT = re.compile(r"(^|_)(attention_types|block_sizes|blocks|depths?|layers?|repeats|stages)$")

_POSITIONS = ("max_position_embeddings", "context_length", "prediction_length")
_WIDTHS = ("d_model", "decoder_hidden_size", "dim", "emb_dim", "hidden_size")
_SINES = {  # by type: the key without which it has no table of sines, or None
    "distilbert": "sinusoidal_pos_embds",
    "flaubert": "sinusoidal_embeddings",
    "marian": None,
    "pegasus": None,
    "roformer": None,
    "time_series_transformer": None,
    "xlm": "sinusoidal_embeddings",
}
_CODEBOOKS = (
    ("num_codevectors_per_group", "num_codevector_groups", "codevector_dim"),
    ("num_clusters", "codevector_dim"),
)
_UNSAID = 1024  # for a size that is left out; those of the classes are smaller


def is_layer_count(key: str) -> bool:
    """Whether numbers of this name say how many layers there are."""
    return _LAYER_COUNT.search(key) is not None


def largest(key: str, value: int | float, generation: bool = False) -> int | float:
    """What a number of this name may be at most, in either direction; ``generation``: in a generation config."""
    if not generation and is_layer_count(key):
        return LAYERS
    if not generation and key == "num_labels":
        return _LABELS
    if isinstance(value, float) or "theta" in key:
        return _ANY_FLOAT
    return _ANY_TOKEN if generation else _ANY


def values_in_python(table: dict[str, Any]) -> float:
    """How many values a constructor computes one by one: tables of sines over positions, GPT-Neo's layers."""
    kind = table.get("model_type")
    if kind == "gpt_neo":  # [[names, how many times], ...]
        return len(list(_leaves(table.get("attention_types")))) * LAYERS
    if kind == "videomae":
        return _ratio(table, "num_frames", "tubelet_size") * _patches(table) * _width(table)
    if kind not in _SINES or ((switch := _SINES[kind]) is not None and not table.get(switch)):
        return 0
    return sum(_numbers(table, _POSITIONS)) * _width(table)


def allocated(table: dict[str, Any]) -> float:
    """How many values the largest tensor has that is made off the meta device: codebooks, and ViT-MAE's positions."""
    sizes = [0.0]
    for first, *others in _CODEBOOKS:
        if first in table:
            sizes.append(math.prod(max(_numbers(table, [name]), default=_UNSAID) for name in (first, *others)))
    if table.get("model_type") == "vit_mae":
        sizes.append(_patches(table) * _width(table))
    return max(sizes)


def _patches(table: dict[str, Any]) -> float:
    return _ratio(table, "image_size", "patch_size") ** 2


def _ratio(table: dict[str, Any], whole: str, part: str) -> float:
    return max(_numbers(table, [whole]), default=_UNSAID) / max(min(_numbers(table, [part]), default=1), 1)


def _width(table: dict[str, Any]) -> float:
    return max(_numbers(table, _WIDTHS), default=_UNSAID)


def _numbers(table: dict[str, Any], names: Iterable[str]) -> list[float]:
    leaves = (leaf for name in names for leaf in _leaves(table.get(name)))
    return [abs(leaf) for leaf in leaves if isinstance(leaf, (int, float)) and not isinstance(leaf, bool)]


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    else:
        yield value
