"""A student in memory, and the numbers that it gives for rows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from kdnative import convert_
from kdnative.data.batches import collate
from kdnative.extras import require
from kdnative.nn import Encoder, PackedEncoder
from kdnative.ops.backends import accepted
from kdnative.pipeline.limits import positions
from kdnative.pipeline.models import load_whole
from kdnative.predict.folders import is_native
from kdnative.predict.request import Request

__all__ = ["Student", "load"]

_TOKENS = 4096  # of a batch, with padding
_ENDLESS = 1 << 30  # what a tokenizer without a limit says is more

Rows = Sequence[dict[str, Any]]


@dataclass
class Student:
    """A loaded model.

    Attributes:
        kind: "classes", "several" (each class for itself), "number" or "embedding".
        classes: names of its outputs.
        score: gives logits or embeddings of rows, float32 [N, outputs], and why rows have none, by their number.
        limit: the most tokens of a text. cut: how many texts had more.
    """

    kind: str
    classes: tuple[str, ...]
    score: Callable[[Rows], tuple[Any, dict[int, str]]]
    limit: int | None = None
    cut: int = 0


def load(folder: Path, reads: str, request: Request, names: Sequence[str]) -> Student:
    """The student in a folder, converted where a scheme is asked for.

    Args:
        reads: see :func:`kdnative.predict.folders.what_it_reads`.
        names: columns of the texts, or of the paths of pictures.
    """
    if request.threads is not None:
        os.environ["RAYON_NUM_THREADS"] = str(request.threads)  # of tokenizers
        torch.set_num_threads(request.threads)
    if request.scheme is not None and is_native(folder):
        raise ValueError(f"{folder}: it is native already: leave --scheme {request.scheme} out")
    if len(names) > 1 and reads != "texts":
        raise ValueError(f"{folder}: it does not read pairs: leave out --pair-column and --text-pair")
    scheme = None if request.scheme is None else accepted(request.scheme)
    tokenizer: Any = None
    if reads != "pictures":
        require("transformers", "reading texts").utils.logging.disable_progress_bar()  # the command has its own
        import kdnative.transformers  # noqa: F401 # which knows the configurations and tokenizers of native folders
    if reads == "embeddings":
        model = _sentence_transformer(folder)
    else:
        model, tokenizer = load_whole(folder)
    if scheme is not None:
        convert_(model, scheme)
    model.eval()
    if reads == "embeddings":
        return _embedder(model, request, names[0])
    if any(isinstance(module, PackedEncoder) for module in model.modules()):
        _row_by_row(model)
    if reads == "pictures":
        return _picture_classifier(model, folder, request, names[0])
    if tokenizer is None:
        raise ValueError(f"{folder}: no tokenizer in it: call tokenizer.save_pretrained({str(folder)!r})")
    return _text_classifier(model, tokenizer, request, names)


def _sentence_transformer(folder: Path) -> Any:
    library = require("sentence_transformers", "embedding texts")
    try:
        return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except SafetensorError as error:
        raise ValueError(f"{folder}: its weights are truncated or damaged ({error}): copy the model again") from error


def _row_by_row(model: nn.Module) -> None:
    """Let float layers, small heads, take rows one by one.

    A native encoder gives a text the same bits in any batch, and matrix products of torch don't.
    """

    def alone(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([forward(row) for row in x.split(1)]) if x.dim() == 2 and len(x) > 1 else forward(x)

    for linear in (module for module in model.modules() if type(module) is nn.Linear):
        linear.forward = alone(linear.forward)  # type: ignore[assignment]


# -- texts -------------------------------------------------------------------------------------------------------------


def _text_classifier(model: Any, tokenizer: Any, request: Request, names: Sequence[str]) -> Student:
    limit = _limit(model, tokenizer, request.max_length)
    known = inspect.signature(model.forward).parameters
    types = len(names) > 1 and "token_type_ids" in known and "token_type_ids" in tokenizer.model_input_names
    options = {"truncation": limit is not None, "max_length": limit, "return_attention_mask": False}
    options["return_token_type_ids"] = types
    padding, config = tokenizer.pad_token_id or 0, model.config

    def score(rows: Rows) -> tuple[Any, dict[int, str]]:
        texts = [[row[name] for row in rows] for name in names]
        found = tokenizer(*texts, **options)
        ids = found["input_ids"]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        if limit is not None:
            student.cut += _cut(tokenizer, texts, found, np.flatnonzero(lengths >= limit).tolist(), limit)
        values = np.empty((len(ids), config.num_labels), np.float32)
        with torch.inference_mode():
            for batch in _batches(lengths, request.batch_size):
                inputs = collate([ids[i] for i in batch], padding)
                if types:
                    inputs["token_type_ids"] = collate([found["token_type_ids"][i] for i in batch], 0)["input_ids"]
                values[batch] = model(**inputs).logits.float().numpy()
        return values, {}

    several = config.problem_type == "multi_label_classification"
    kind = "number" if config.num_labels == 1 else "several" if several else "classes"
    student = Student(kind, _labels(config), score, limit)
    return student


def _labels(config: Any) -> tuple[str, ...]:
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def _batches(lengths: Any, size: int) -> Iterator[Any]:
    """The numbers of rows of about the same length, longest first: at most `size` rows and `_TOKENS` tokens at once."""
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        count = max(1, min(size, _TOKENS // max(1, int(lengths[order[0]]))))
        yield order[:count]
        order = order[count:]


def _limit(model: nn.Module, tokenizer: Any, asked: int | None) -> int | None:
    """The most tokens of a text: as asked for, or what model and tokenizer take; None: there is no end."""
    limits = [positions(model)]
    for spec in (module.spec for module in model.modules() if isinstance(module, Encoder)):
        limits.append(spec["max_positions"] - (0 if spec["padding_id"] is None else spec["padding_id"] + 1))
    most = min((n for n in limits if n is not None and n > 0), default=None)
    if asked is None:
        return min((n for n in (most, tokenizer.model_max_length) if n is not None and n < _ENDLESS), default=None)
    fewest = tokenizer.num_special_tokens_to_add() + 1
    if not fewest <= asked <= (most or _ENDLESS):
        raise ValueError(f"--max-length {asked}: the model reads {fewest} to {most or 'any number of'} tokens")
    return asked


def _cut(tokenizer: Any, texts: Sequence[Sequence[str]], found: Any, full: Sequence[int], limit: int) -> int:
    """How many of the texts that have as many tokens as they may (`full`) had more."""
    if getattr(found, "encodings", None):
        return sum(bool(found.encodings[i].overflowing) for i in full)
    return _longer(tokenizer, [[column[i] for i in full] for column in texts], limit) if full else 0


def _longer(tokenizer: Any, texts: Sequence[Sequence[str]], limit: int) -> int:
    return sum(len(ids) > limit for ids in tokenizer(*texts, truncation=False, verbose=False)["input_ids"])


def _embedder(model: Any, request: Request, name: str) -> Student:
    limit, asked = model.max_seq_length, request.max_length
    if asked is not None:
        if asked > (limit or _ENDLESS):
            raise ValueError(f"--max-length {asked}: the model reads at most {limit} tokens")
        model.max_seq_length = limit = asked

    def score(rows: Rows) -> tuple[Any, dict[int, str]]:
        texts = [row[name] for row in rows]
        if limit is not None:
            long = [text for text in texts if 4 * len(text) >= limit - 8]  # a token has at least one of their bytes
            student.cut += _longer(model.tokenizer, [long], limit) if long else 0
        return np.asarray(model.encode(texts, batch_size=request.batch_size, show_progress_bar=False), np.float32), {}

    student = Student("embedding", (), score, limit)
    return student


# -- pictures ----------------------------------------------------------------------------------------------------------


def _picture_classifier(model: Any, folder: Path, request: Request, name: str) -> Student:
    read: Any = getattr(model, "preprocess", None)
    classes = tuple(getattr(model, "classes", ())) if read is not None else _labels(model.config)
    if read is None:
        read = _image_processor(folder)

    def score(rows: Rows) -> tuple[Any, dict[int, str]]:
        values: list[Tensor] = []
        failed: dict[int, str] = {}
        for start in range(0, len(rows), request.batch_size):
            paths = [row[name] for row in rows[start : start + request.batch_size]]
            try:
                pixels = read(paths)
            except (ValueError, OSError):  # of one of them
                parts = _read_each(read, paths, start, failed)
                if not parts:
                    continue
                pixels = torch.cat(parts)
            with torch.inference_mode():
                found = model(pixels)
            values.append(getattr(found, "logits", found).float())
        return torch.cat(values).numpy() if values else None, failed

    return Student("classes", classes, score)


def _read_each(read: Callable[..., Tensor], paths: Sequence[str], start: int, failed: dict[int, str]) -> list[Tensor]:
    """The pictures that can be read; `failed` is told of the others, by numbers from `start` on."""
    parts = []
    for number, path in enumerate(paths, start):
        try:
            parts.append(read([path]))
        except (ValueError, OSError) as error:
            failed[number] = str(error) if os.path.exists(path) else f"{path}: no such file"
    return parts


def _image_processor(folder: Path) -> Callable[[Sequence[str]], Tensor]:
    import kdnative.transformers  # noqa: F401 # native folders

    image = require("PIL.Image", "reading pictures")
    processor = require("transformers").AutoImageProcessor.from_pretrained(folder)

    def opened(path: str) -> Any:
        try:
            with image.open(path) as picture:
                return picture.convert("RGB")
        except Exception as error:  # Pillow's decoders raise whatever a broken file makes them
            raise ValueError(f"{path}: not a picture that can be read: {error}") from error

    return lambda paths: processor(images=[opened(path) for path in paths], return_tensors="pt")["pixel_values"]
