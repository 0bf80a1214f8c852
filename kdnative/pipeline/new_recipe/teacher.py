"""What is known of a teacher whose files are on this machine; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdnative.data import model_path
from kdnative.data.packages import is_here
from kdnative.extras import require

__all__ = ["LookedAt", "look_at", "token_counts"]

# The sizes of the packaged models: a recipe is the same before they are fetched. Layers, width, heads, neurons.
PACKAGED = {"package:minilm-l6": (6, 384, 12, 1536), "package:mpnet-base": (12, 768, 12, 3072)}
USUAL_POSITIONS = 512  # of BERT and most of its kin
WORDS_TO_TOKENS = 1.4  # tokens of a word, for tokenizers of English
SPECIAL = 2  # tokens around a text, such as [CLS] and [SEP]


@dataclass(frozen=True)
class LookedAt:
    """A teacher.

    Attributes:
        positions: the most tokens that it reads.
        layers, width, heads, neurons: of its encoder; None where its files are not here, or say something else; those
            of packaged models are always known.
        classes: of its classification head, in their order; empty without one.
        tokenizer: of transformers; None where its files are not here.
    """

    source: str
    positions: int = USUAL_POSITIONS
    layers: int | None = None
    width: int | None = None
    heads: int | None = None
    neurons: int | None = None
    classes: tuple[str, ...] = ()
    tokenizer: Any = None


def look_at(source: str) -> LookedAt:
    """Reads a teacher's configuration and tokenizer, where they are here.

    Raises:
        ValueError: an unknown name, or no such folder. PipelineError: no tokenizer in it.
    """
    from kdnative.pipeline.models import load_tokenizer

    if not is_here(source):
        if not source.startswith("hub:") and source not in PACKAGED:
            model_path(source)  # says what is wrong with it
        layers, width, heads, neurons = PACKAGED.get(source, (None, None, None, None))
        return LookedAt(source, layers=layers, width=width, heads=heads, neurons=neurons)
    folder = model_path(source)
    if "auto_map" in json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")):
        return LookedAt(source)  # transformers would ask the user whether to run the code that it names
    config = require("transformers").AutoConfig.from_pretrained(folder)
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    layers, width, heads, neurons = (_number(getattr(config, name, None)) for name in names)
    headed = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    classes = tuple(str(config.id2label[i]) for i in sorted(config.id2label)) if headed else ()
    return LookedAt(source, _positions(config), layers, width, heads, neurons, classes, load_tokenizer(source))


def token_counts(texts: Sequence[Sequence[str]], teacher: LookedAt) -> list[int]:
    """Tokens of each example of one or two texts, uncut: counted, or without a tokenizer estimated from its words."""
    if teacher.tokenizer is None:
        return [round(WORDS_TO_TOKENS * sum(len(t.split()) for t in each)) + SPECIAL + len(each) - 1 for each in texts]
    columns = [list(column) for column in zip(*texts, strict=True)]
    encoded = teacher.tokenizer(*columns, truncation=False, verbose=False)["input_ids"]
    return [len(ids) for ids in encoded]


def _positions(config: Any) -> int:
    import torch

    from kdnative.pipeline.limits import positions

    try:
        with torch.device("meta"):
            found = positions(require("transformers").AutoModel.from_config(config))
    except Exception:  # whatever a kind of model does without values: the check of the recipe asks again, and tells
        found = None
    return found or USUAL_POSITIONS


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
