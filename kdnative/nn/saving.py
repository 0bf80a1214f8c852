"""``save_pretrained`` and ``push_to_hub`` of native models: they write what :func:`kdnative.load` reads."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kdnative.extras import require

__all__ = ["NativeSaving", "is_pretrained_model", "restore_save_pretrained", "set_save_pretrained"]


def save_pretrained(
    model: nn.Module, save_directory: Any, *, is_main_process: bool = True, push_to_hub: bool = False, **options: Any
) -> None:
    """Write a checkpoint of kdnative, beside whatever else is in the folder.

    Args:
        model: with native modules.
        save_directory: the folder; :func:`kdnative.load` and, after ``import kdnative.transformers``, the auto classes
            of transformers read it.
        is_main_process: only the main process writes.
        push_to_hub: upload the folder afterwards, see `push`.
        options: ``repo_id``, ``token``, ``private``, ``commit_message`` of `push`. Others (``state_dict``,
            ``safe_serialization``, ``max_shard_size``, ``variant``) are accepted and have no effect.
    """
    import kdnative

    if is_main_process:
        kdnative.save(model, save_directory, beside=True)
    if push_to_hub:
        known = ("token", "private", "commit_message", "revision", "create_pr")
        given = {name: options[name] for name in known if name in options}
        push(model, options.get("repo_id") or Path(save_directory).name, **given)


def push(
    model: nn.Module,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    commit_message: str = "Upload a kdnative student",
    revision: str | None = None,
    create_pr: bool = False,
    **options: Any,
) -> Any:
    """Upload a checkpoint to the hub: that of the model, with tokenizer and card of the folder that it was loaded from.

    Args:
        repo_id: the repository; it is created if need be.
        token, private, commit_message, revision, create_pr: as in ``huggingface_hub.HfApi.upload_folder``.
        options: others of transformers (``tags``, ``max_shard_size``) are accepted and have no effect.
    """
    hub = require("huggingface_hub", "push_to_hub")
    api = hub.HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        source = getattr(model, "_kdnative_folder", None)
        for file in Path(source).iterdir() if source is not None and Path(source).is_dir() else ():
            beside = file.is_file() and not file.name.startswith((".", "kdnative"))
            if beside and not (Path(folder) / file.name).exists():
                shutil.copyfile(file, Path(folder) / file.name)
        return api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=revision, create_pr=create_pr
        )


class NativeSaving:
    """The same as methods, for native modules that take the place of a whole model of transformers."""

    save_pretrained = save_pretrained
    push_to_hub = push


def is_pretrained_model(module: nn.Module) -> bool:
    """Whether ``module`` is a model of transformers; does not import the library."""
    origins = {(cls.__module__, cls.__name__) for cls in type(module).__mro__}
    return ("transformers.modeling_utils", "PreTrainedModel") in origins


def set_save_pretrained(model: nn.Module, native: tuple[type, ...]) -> None:
    """Let the models of transformers with native modules in them write checkpoints of kdnative.

    transformers' own files would hold plain tensors under names that it does not know, and it would load random weights
    in their place.
    """
    for module in model.modules():
        if is_pretrained_model(module) and any(isinstance(part, native) for part in module.modules()):
            module.save_pretrained = partial(save_pretrained, module)
            module.push_to_hub = partial(push, module)


def restore_save_pretrained(model: nn.Module) -> None:
    """Undo `set_save_pretrained`, where nothing native is left."""
    for module in model.modules():
        if isinstance(module.__dict__.get("save_pretrained"), partial):
            del module.save_pretrained, module.push_to_hub
