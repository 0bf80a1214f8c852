"""Configurations of Hugging Face transformers as plain data, and back."""

from __future__ import annotations

import json
from typing import Any

from kdnative.extras import require

__all__ = ["attention_of", "from_plain", "set_attention", "settings_of", "to_plain"]


_ORIGIN = ("_name_or_path", "name_or_path", "_commit_hash", "auto_map", "quantization_config", "_is_quantized")


def to_plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it, complete, and without the places that it and its model's code came from."""
    return _without_origin(json.loads(config.to_json_string(use_diff=False)))


def _without_origin(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_without_origin(value) for value in plain]
    if isinstance(plain, dict):
        return {key: _without_origin(value) for key, value in plain.items() if key not in _ORIGIN}
    return plain


def settings_of(plain: Any) -> Any:
    """What :func:`to_plain` gave, with infinities as numbers again, which are ``{"__float__": "Infinity"}`` there."""
    if isinstance(plain, list):
        return [settings_of(value) for value in plain]
    if not isinstance(plain, dict):
        return plain
    if plain.keys() == {"__float__"}:
        return float(plain["__float__"])
    return {key: settings_of(value) for key, value in plain.items()}


def attention_of(config: Any) -> Any:
    """How a configuration's models compute attention: a name, or names by part where its parts differ ("": its own)."""
    own, parts = config._attn_implementation, {}
    for name in getattr(config, "sub_configs", ()):
        if (part := getattr(config, name, None)) is not None:
            parts[name] = attention_of(part)
    return own if all(value == own for value in parts.values()) else {"": own, **parts}


def set_attention(config: Any, attention: Any) -> None:
    """Set what :func:`attention_of` gave."""
    own = attention[""] if isinstance(attention, dict) else attention
    config._attn_implementation = own  # and that of its parts
    if isinstance(attention, dict):
        for name, value in attention.items():
            if name:
                set_attention(getattr(config, name), value)


def from_plain(plain: dict[str, Any]) -> Any:
    """The configuration that :func:`to_plain` described.

    Raises:
        ImportError: transformers is not installed. ValueError: it does not know this ``model_type``.
    """
    transformers = require("transformers", "the configuration of a model of transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = plain.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"model_type {kind!r} is not one of transformers {transformers.__version__}")
    return CONFIG_MAPPING[kind].from_dict(settings_of(plain))
