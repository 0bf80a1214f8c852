"""Checks on what a file says of a model of transformers, before any of it reaches transformers.

Constructors take a configuration as it is: it may name repositories to read, code to run and kernels to load, and give
numbers that a loop in Python counts up to. What is refused here never gets that far, and what is built is built with
:mod:`kdnative.checkpoint.isolation` around it. Texts of errors go on "the model can't be rebuilt: ...".
"""

from __future__ import annotations

import math
import re
from typing import Any, cast

from kdnative.checkpoint.allowed import ATTENTION, MODEL_TYPES
from kdnative.checkpoint.config_sizes import LAYERS_IN_ALL, allocated, is_layer_count, largest, values_in_python
from kdnative.checkpoint.isolation import isolated, limited_modules, offline
from kdnative.shown import shown

__all__ = ["check_attention", "check_config", "check_generation", "isolated", "limited_modules", "model_class"]

_INTO = "build the model in your code and call load(path, into=model)"

_REFUSED = frozenset(
    {
        # Code and files of other places.
        "_name_or_path",
        "auto_map",
        "custom_generate",
        "custom_pipelines",
        "is_hybrid",  # dpt: a backbone of another type
        "name_or_path",
        "use_pretrained_backbone",
        "use_timm_backbone",
        # Other kernels, compilers and layers.
        "_experts_implementation",
        "_experts_implementation_internal",
        "compile_config",
        "continuous_batching_config",
        "distributed_config",
        "experts_implementation",
        "kernel_config",
        "quantization_config",
        # Ways to generate whose code transformers reads from its hub.
        "constraints",
        "dola_layers",
        "force_words_ids",
        "penalty_alpha",
        # What a class says of its configurations, and names under which other keys would pass.
        "attribute_map",
        "per_layer_config",
        "sub_configs",
        "sub_configs_defaults",
    }
)
_LABELS = frozenset({"id2label", "id2lang", "label2id", "lang2id", "lang_to_id", "task_to_id"})
_FREE_TEXT = frozenset({"finetuning_task", "prefix", "stop_strings", "task_specific_params"})
_DTYPES = ("bfloat16", "float16", "float32", "float64")
_INFINITIES = [{"__float__": sign + "Infinity"} for sign in ("", "-")]  # as :func:`hf_config.to_plain` has them
_LEVELS, _TABLES, _ITEMS, _TEXT = 12, 1000, 8192, 1000  # levels, tables in all, items of a list, letters of a text
_IN_PYTHON = 2**21  # values: a few seconds; the largest Pegasus has tables of 2**20
_ALLOCATED = 2**24  # values


def model_class(name: Any, config: Any) -> type:
    """The class of transformers that a file may have built from a configuration.

    Args:
        name: of the class.
        config: as :func:`kdnative.nn.hf_config.to_plain` gives it; :func:`check_config` looks into it.

    Raises:
        ImportError: transformers is not installed.
        ValueError: there is no such class, it is not of the configuration's type, or of one that is not allowed.
    """
    import transformers

    _check_type(_table(config).get("model_type"), "model_type")
    sound = isinstance(name, str) and re.fullmatch(r"[A-Z][A-Za-z0-9_]{0,99}", name)
    with offline():
        cls = getattr(transformers, name, None) if sound else None
    if not (
        isinstance(cls, type)
        and issubclass(cls, transformers.PreTrainedModel)
        and cls.__module__.startswith("transformers.models.")
    ):
        raise ValueError(f"{shown(name)} is not a model class of transformers {transformers.__version__}")
    kind = getattr(cast(Any, cls).config_class, "model_type", None)
    if kind != config["model_type"]:
        raise ValueError(f"{name} takes a configuration of model_type {kind!r}, not {config['model_type']!r}")
    return cls


def check_config(config: Any) -> None:
    """Refuse a configuration that is more than numbers, names and labels of models whose types are allowed.

    Args:
        config: as :func:`kdnative.nn.hf_config.to_plain` gives it.

    Raises:
        ValueError: what it sets, and where.
    """
    _check_type(_table(config).get("model_type"), "model_type")
    _Walk().table(config, "", 0)


def check_generation(generation: Any) -> None:
    """Refuse a generation config that is more than numbers and texts.

    Args:
        generation: one of the values that :func:`kdnative.checkpoint.settings.generation_settings` gives.

    Raises:
        ValueError: what it sets, and where.
    """
    _Walk(generation=True).table(_table(generation), "", 0)


def check_attention(attention: Any, place: str = "attention") -> None:
    """Refuse what is not one of :data:`ATTENTION`, or a table of such by part ("": the model's own).

    Raises:
        ValueError: another name was given.
    """
    if isinstance(attention, dict) and "" in attention and place.count(".") < _LEVELS:
        for part, value in attention.items():
            # An attribute that is no part may be of the class, and setting something of that changes it for everyone.
            if part and not (isinstance(part, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,99}", part)):
                raise ValueError(f"its {_cut(place)} names {shown(part)}, which can't be a part of a model")
            check_attention(value, f"{place}.{part}")
    elif not (attention is None or isinstance(attention, str)) or attention not in ATTENTION:
        known = ", ".join(sorted(name for name in ATTENTION if name))
        raise ValueError(f"its {_cut(place)} is {shown(attention)}; from a file it can be {known}; for others {_INTO}")


class _Walk:
    """One way through a configuration, and what has been met on it."""

    def __init__(self, generation: bool = False) -> None:
        self.generation, self.tables, self.in_python = generation, 0, 0.0

    def table(self, table: dict[str, Any], place: str, level: int, free: bool = False) -> None:
        """``place``: its name, dotted; ``free``: its texts may be any."""
        self.tables += 1
        if self.tables > _TABLES:
            raise ValueError(f"its configuration has more than {_TABLES:,} tables")
        for key, value in table.items():
            if not isinstance(key, str) or key.startswith("__") or not key.isprintable() or len(key) > _TEXT:
                raise ValueError(f"its configuration has the key {shown(key)}, which none has")
            self.entry(key, value, f"{place}.{key}" if place else key, level, free or key in _FREE_TEXT)
        self._check_sizes(table, place)

    def entry(self, key: str, value: Any, place: str, level: int, free: bool) -> None:
        if key in _LABELS:
            _check_labels(value, place)
        elif key == "model_type":
            if value != "":  # so says a table that is a configuration in name only
                _check_type(value, place)
        elif key.endswith("dtype"):
            _check_dtype(value, place)
        elif key == "attn_implementation" or key.startswith("_attn_implementation"):
            if not isinstance(value, bool):
                check_attention(value, place)
        elif _is_refused(key, value):
            raise ValueError(f"it sets {_cut(place)}, which can bring code, files or kernels from elsewhere; {_INTO}")
        else:
            self.value(key, value, place, level, free)

    def value(self, key: str, value: Any, place: str, level: int, free: bool) -> None:
        if isinstance(value, (dict, list)) and level >= _LEVELS:
            raise ValueError(f"its configuration has more than {_LEVELS} levels: {_cut(place)}")
        if isinstance(value, dict) and value in _INFINITIES:
            return
        if isinstance(value, dict):
            self.table(value, place, level + 1, free)
        elif isinstance(value, list):
            if len(value) > _ITEMS and not self.generation:
                raise ValueError(f"its {_cut(place)} has {len(value):,} items; from a file it can have {_ITEMS:,}")
            for item in value:
                self.value(key, item, place, level + 1, free)
            if is_layer_count(key) and sum(n for n in value if type(n) is int) > LAYERS_IN_ALL:
                raise ValueError(f"its {_cut(place)} add up to more than {LAYERS_IN_ALL:,} layers")
        elif isinstance(value, str):
            if not free and (re.search(r"[/\\]|--", value) or not value.isprintable() or len(value) > _TEXT):
                raise ValueError(f"its {_cut(place)} is {shown(value)}, which may name what lies elsewhere; {_INTO}")
        elif value is not None and not isinstance(value, bool):
            self._check_number(key, value, place)

    def _check_number(self, key: str, value: Any, place: str) -> None:
        if not isinstance(value, (int, float)) or value != value:
            raise ValueError(f"its {_cut(place)} is {shown(value)}, which is not a number")
        if isinstance(value, float) and math.isinf(value):
            return  # as transformers 4 has those
        if abs(value) > (limit := largest(key, value, self.generation)):
            most = f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
            raise ValueError(f"its {_cut(place)} is {shown(value)}; from a file it can be at most {most}")

    def _check_sizes(self, table: dict[str, Any], place: str) -> None:
        if self.generation:
            return
        what = f"its {_cut(place)}" if place else "its configuration"
        self.in_python += values_in_python(table)
        if self.in_python > _IN_PYTHON:
            raise ValueError(
                f"{what} has over {_IN_PYTHON:,} positions x width, which are computed one by one; {_INTO}"
            )
        if allocated(table) > _ALLOCATED:
            raise ValueError(
                f"{what} has a tensor of over {_ALLOCATED:,} values that is made when it is built; {_INTO}"
            )


def _is_refused(key: str, value: Any) -> bool:
    """Whether a key may bring what no file may; None, False and "" say that there is nothing of it."""
    if value is None or value is False or value == "":
        return False
    if key.startswith("backbone"):  # indices and shapes are numbers
        return not _is_numbers(value)
    if key == "num_beam_groups":
        return bool(value != 1)
    return key in _REFUSED or "trust_remote_code" in key


def _is_numbers(value: Any) -> bool:
    return all(map(_is_numbers, value)) if isinstance(value, list) else type(value) in (int, float)


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"its configuration must be a table, not {shown(value)}")
    return value


def _check_type(kind: Any, place: str) -> None:
    if not isinstance(kind, str) or kind not in MODEL_TYPES:
        raise ValueError(f"its {_cut(place)} {shown(kind)} is not one that is built from a file; {_INTO}")


def _check_labels(labels: Any, place: str) -> None:
    """Names of classes and languages may be any text."""
    entries = labels.items() if isinstance(labels, dict) else [] if labels is None else [labels]
    if not all(isinstance(entry, tuple) and _is_label(entry[0]) and _is_label(entry[1]) for entry in entries):
        raise ValueError(f"its {_cut(place)} is not a table of texts and numbers")


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int))


def _check_dtype(dtype: Any, place: str) -> None:
    """transformers looks it up in torch, where the name may be of anything."""
    for name in dtype.values() if isinstance(dtype, dict) else [dtype]:
        if name is not None and name not in _DTYPES:
            raise ValueError(f"its {_cut(place)} is {shown(dtype)}; from a file it can be {', '.join(_DTYPES)}")


def _cut(text: str) -> str:
    """A name of a place, which is printable, not too long for an error."""
    return text if len(text) <= 100 else text[:97] + "..."
