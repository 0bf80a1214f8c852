"""Loading of Hugging Face models with a head for a task, of tokenizers, and of what ``kdnative convert`` accepts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnative.extras import require
from kdnative.pipeline import networks
from kdnative.pipeline.folder import PipelineError

if TYPE_CHECKING:
    from torch import nn

    from kdnative.data import Dataset
    from kdnative.tasks import Task


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer that lies beside a model (``package:NAME``, ``hub:NAME`` or a folder).

    Raises:
        PipelineError: there is none that transformers can read.
    """
    from kdnative.data import model_path

    return _tokenizer_in(Path(model_path(source)))


def load_for_task(source: str | Path, task: Task, train: Dataset, *, fine_tuned: bool = False) -> nn.Module:
    """A Hugging Face encoder with the head that a task needs for its training split, in float32.

    The head is new, drawn from torch's global generator, unless the model at ``source`` already has one that fits (see
    `Task.fit_head`).

    Args:
        fine_tuned: the model must have all weights and the head itself, for the data's classes.

    Raises:
        PipelineError: transformers can't build such a model from it, its weights are damaged, or it is not what
            `fine_tuned` asks for.
    """
    import torch
    from safetensors import SafetensorError

    from kdnative.data import model_path

    transformers = require("transformers")
    folder = model_path(source)
    with _quiet(transformers):
        try:
            own = transformers.AutoConfig.from_pretrained(folder).id2label or {}
            model, found = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                output_loading_info=True,
                **task.head(train.labels),
            )
        except SafetensorError as error:
            raise _damaged(folder, error) from error
        except (OSError, ValueError, KeyError) as error:
            raise PipelineError(f"can't load a classifier from {source} ({folder}): {error}") from error
    try:
        replaced = {name for name, *_shapes in found["mismatched_keys"]}
        names = [own[i] for i in sorted(own)]
        drawn = task.fit_head(model, names, train, found["missing_keys"], replaced, str(source))
    except ValueError as error:
        raise PipelineError(str(error)) from error
    if fine_tuned:
        reason = task.head_mismatch(names, train.labels) if drawn or replaced else None
        if reason is None and (new := sorted({*found["missing_keys"], *replaced})):
            reason = f"it has no weights that fit {', '.join(new[:4])}{' and others' if len(new) > 4 else ''}"
        if reason is not None:
            raise PipelineError(not_fine_tuned(source, reason))
    return model


def not_fine_tuned(source: str | Path, reason: str) -> str:
    """Why a model is not the teacher that a recipe says it is, and what to do."""
    return (
        f"teacher.fine_tuned is true, but {source} is not fine-tuned for this data: {reason}. Leave "
        "fine_tuned out to fine-tune it in this run, or give a model that is fine-tuned for it"
    )


def load_any(source: str | Path) -> tuple[nn.Module, Any]:
    """A model and its tokenizer (None without one) from a kdnative checkpoint or anything in Hugging Face layout.

    A checkpoint of a run about pictures is of the network that is described beside it.

    A Hugging Face model is built as the class that its config.json names; that of a sentence-transformers folder is its
    encoder alone.

    Raises:
        PipelineError: transformers does not have that class, or the weights are damaged.
    """
    import torch
    from safetensors import SafetensorError

    import kdnative
    from kdnative.data import model_path

    if (Path(source) / networks.DESCRIPTION).is_file():
        return networks.load_saved(Path(source)), None
    if (Path(source) / "kdnative.json").is_file():
        return kdnative.load(source), _tokenizer_or_none(Path(source))
    folder = Path(model_path(source))
    transformers = require("transformers")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = (config.get("architectures") or ["AutoModel"])[0]
    family = getattr(transformers, name, None)
    if family is None:
        raise PipelineError(f"{folder}/config.json names the architecture {name!r}, which transformers does not have")
    with _quiet(transformers):
        try:
            model = family.from_pretrained(folder, dtype=torch.float32)
        except SafetensorError as error:
            raise _damaged(folder, error) from error
        return model, _tokenizer_or_none(folder)


def load_whole(source: str | Path) -> tuple[nn.Module, Any]:
    """As `load_any`, but a sentence-transformers folder as a SentenceTransformer, with pooling and what else it has.

    Raises:
        PipelineError: as `load_any`; or the folder names parts that are not of sentence-transformers.
        ImportError: sentence-transformers is needed and not installed.
    """
    from kdnative.data import model_path

    if (Path(source) / "kdnative.json").is_file():
        return load_any(source)
    folder = Path(model_path(source))
    if (folder / "modules.json").is_file():
        return _sentence_transformer(folder), _tokenizer_or_none(folder)
    return load_any(source)


def _sentence_transformer(folder: Path) -> nn.Module:
    classes = [module.get("type", "") for module in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
    foreign = [name for name in classes if not name.startswith("sentence_transformers.")]
    if foreign:
        raise PipelineError(
            f"{folder}/modules.json names {foreign[0]!r}, which sentence-transformers does not have: build "
            "the model in Python, then call kdnative.convert_(model) and kdnative.save(model, folder)"
        )
    library = require("sentence_transformers")
    try:
        with _quiet(require("transformers")):
            return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise PipelineError(f"can't load the sentence-transformers model in {folder}: {error}") from error


def parameters(model: nn.Module) -> int:
    """Number of parameters; those shared by two modules count once."""
    return sum(p.numel() for p in model.parameters())


def _damaged(folder: str | Path, error: Exception) -> PipelineError:
    """The error in words, with the name of the first weight file that can't be opened (safetensors names none)."""
    from safetensors import SafetensorError, safe_open

    culprit = Path(folder)
    for file in sorted(culprit.glob("*.safetensors")):
        try:
            with safe_open(str(file), "pt"):
                pass
        except (SafetensorError, OSError):
            culprit = file
            break
    return PipelineError(f"{culprit} is truncated or damaged ({error}): copy or download the model again")


def _tokenizer_or_none(folder: Path) -> Any:
    names = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
    return _tokenizer_in(folder) if any((folder / name).is_file() for name in names) else None


# How a tokenizer was read, which transformers writes into its file: the same one read offline would be another file.
_OF_THE_CALL = ("is_local", "local_files_only")


def _tokenizer_in(folder: Path) -> Any:
    transformers = require("transformers")
    from kdnative.checkpoint.auto_classes import register

    register()  # else transformers asks about the code in the folder of a student
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise PipelineError(f"no tokenizer in {folder}: {error}") from error
    for option in _OF_THE_CALL:
        tokenizer.init_kwargs.pop(option, None)
    return tokenizer


def may_be_asked(source: str, needed: bool) -> bool:
    """Whether a model's files may be looked at; never on the hub, which takes time and may have others by then."""
    from kdnative.data.packages import is_here

    return not source.startswith("hub:") and (needed or is_here(source))


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No list of newly made weights on the screen: a fresh head is what the pipeline asks for."""
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
