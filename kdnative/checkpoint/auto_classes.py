"""Saved students in the auto classes of transformers.

:func:`kdnative.load` calls `register` where transformers is imported, so that a tokenizer beside the student is read
without a question about code in its folder. ``import kdnative.transformers`` registers the rest.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass

import kdnative
from kdnative.checkpoint import hostile
from kdnative.checkpoint.hub_files import MODEL_TYPE
from kdnative.nn import Encoder
from kdnative.nn.hf_config import settings_of
from kdnative.nn.saving import is_pretrained_model

__all__ = ["StudentConfig", "load_folder", "register"]

_FILES = ["kdnative*", "*.json", "*.txt", "*.model", "README.md", "*/config.json"]
_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_IGNORED = {
    "adapter_kwargs",
    "attn_implementation",
    "low_cpu_mem_usage",
    "proxies",
    "trust_remote_code",
    "weights_only",
}
_IGNORED |= {"use_safetensors", "_commit_hash", "_from_auto", "_from_pipeline", "torch_dtype", "dtype", "device_map"}


class StudentConfig(transformers.PretrainedConfig):  # type: ignore[misc] # without types
    """The configuration of a saved student: ``model_type`` "kdnative" in ``config.json``.

    ``from_dict`` gives that of the model which the student was, as a subclass: a ``BertConfig`` for a student of BERT.
    A convolutional network has a plain one with its labels.
    """

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The configuration in ``config.json``; ``kwargs`` change entries that it has.

        Raises:
            ValueError: the installed transformers does not know the model, or a value that no checkpoint may have.
        """
        base = config_dict.get("base_config")
        if base is None:
            config = cls(id2label={int(i): name for i, name in config_dict["id2label"].items()})
        else:
            hostile.check_config(base)
            kind = base["model_type"]
            if kind not in transformers.CONFIG_MAPPING:
                raise ValueError(
                    f"the student is a {kind}, which transformers {transformers.__version__} lacks: upgrade"
                )
            config = _config_class(transformers.CONFIG_MAPPING[kind]).from_dict(settings_of(base))
        config.architectures = config_dict.get("architectures")
        config.quantization_config = config_dict.get("quantization_config")
        config._name_or_path = kwargs.pop("name_or_path", "")
        used = {name for name in kwargs if hasattr(config, name)} - {"dtype", "torch_dtype"}  # left to `load_folder`
        for name in used:
            setattr(config, name, kwargs[name])
        unused = {name: value for name, value in kwargs.items() if name not in used}
        return (config, unused) if return_unused_kwargs else config


@functools.cache
def _config_class(base: type) -> Any:
    """A subclass of a configuration, by which auto classes know that the folder is ours."""
    cls = type(f"Student{base.__name__}", (base,), {"__module__": __name__, "student_of": base})
    for auto in _AUTO_CLASSES:
        if base in auto._model_mapping:
            auto.register(cls, _loader(auto, cls), exist_ok=True)
    return cls


def _loader(auto: Any, config_class: type) -> type:
    """What an auto class takes for the class of the model: its ``from_pretrained`` is :func:`load_folder`."""

    def from_pretrained(cls: Any, folder: Any, *args: Any, **options: Any) -> Any:
        return load_folder(auto, folder, **options)

    def from_config(cls: Any, config: Any, /, **options: Any) -> Any:
        raise ValueError("a student is made from its files: use from_pretrained, or from_config of the float model")

    body = {"from_pretrained": classmethod(from_pretrained), "_from_config": classmethod(from_config)}
    body |= {"__module__": __name__, "config_class": config_class}
    return type(f"Student{auto.__name__.removeprefix('Auto')}", (), body)


_AUTO_CLASSES: list[Any] = [
    auto
    for name, auto in vars(modeling_auto).items()
    if name.startswith("AutoModel") and isinstance(auto, type) and issubclass(auto, _BaseAutoModelClass)
]


def load_folder(
    auto: Any, name: Any, *, config: Any, subfolder: str = "", output_loading_info: bool = False, **options: Any
) -> Any:
    """What ``from_pretrained`` of an auto class gives for the folder, or the repository of the hub, of a student."""
    if options.pop("quantization_config", None) is not None:
        raise ValueError(f"{name} is a native student already: leave quantization_config out")
    if unknown := {key for key, value in options.items() if value not in (None, False)} - _IGNORED - {*_HUB}:
        raise TypeError(f"{name}: a native student takes no {', '.join(sorted(unknown))}: leave it out")
    model = kdnative.load(_folder(name, options) / subfolder)
    if type(config) is not StudentConfig:  # a convolutional network has no other
        model = _for_auto_class(model, auto, config, name)
        own = model.config
        if len(own.id2label) != len(config.id2label):
            raise ValueError(f"{name} has {len(own.id2label)} outputs, and {len(config.id2label)} labels were given")
        _override(own, config, name)
        own.id2label, own.label2id, own._name_or_path = config.id2label, config.label2id, str(name)
        if isinstance(model, Encoder):
            model.config = own  # it looks up once what it returns
    dtype, device = options.get("dtype") or options.get("torch_dtype"), options.get("device_map")
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype  # "auto": as saved
    device = device.get("") if isinstance(device, dict) else None if device == "auto" else device
    model = model if dtype is None else model.to(dtype)
    model = model if device is None else model.to(device)
    info: dict[str, list[str]] = {
        name: [] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    }
    return (model, info) if output_loading_info else model


def _override(own: Any, config: Any, name: Any) -> None:
    """Give a model's configuration what the caller has changed in that of the folder.

    Raises:
        ValueError: a size, which belongs to the weights.
    """
    given, skipped = config.to_dict(), ("architectures", "dtype", "model_type", "quantization_config", "torch_dtype")
    for key, old in own.to_dict().items():
        new = given.get(key, old)
        if new == old or key in skipped or key.startswith("_") or isinstance(old, dict):
            continue
        if type(old) is int or isinstance(old, list):
            raise ValueError(f"{name} has {key} {old!r}, which belongs to its weights: it can't become {new!r}")
        setattr(own, key, new)


def _folder(name: Any, options: dict[str, Any]) -> Path:
    """The folder itself, or a copy of a repository of the hub."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    given = {key: options[key] for key in _HUB if options.get(key) is not None}
    return Path(snapshot_download(str(name), allow_patterns=_FILES, **given))


def _for_auto_class(model: nn.Module, auto: Any, config: Any, name: Any) -> nn.Module:
    """The model that an auto class promises: its base for ``AutoModel``, else the one with that head."""
    if auto is transformers.AutoModel:
        return model.base_model if is_pretrained_model(model) else model
    classes = auto._model_mapping[type(config).student_of]
    if type(model) not in (classes if isinstance(classes, tuple) else (classes,)):
        own = (config.architectures or [type(model).__name__])[0]
        raise ValueError(
            f"{name} is a {own}, which {auto.__name__} does not load: use AutoModel, kdnative.load, or the auto class "
            f"of {own}"
        )
    return model


def register() -> None:
    """Let ``AutoConfig`` know students; the auto classes follow when a configuration is read."""
    if MODEL_TYPE not in transformers.CONFIG_MAPPING:
        transformers.AutoConfig.register(MODEL_TYPE, StudentConfig)
