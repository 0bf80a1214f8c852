"""Calibrated layers as a file: safetensors, with what is known of them as JSON in its header.

``kdnative_calibration`` in the metadata is ``{"format": 1, "layers": [...], "extra": {...}}``. Each layer has the
fields of `CalibratedLayer`, and ``shape``, ``bits`` and ``group_size`` of its weight; the tensors of the i-th one are
``i.qweight`` (packed, see `pack_bits`; 8 bits as they are), ``i.scale`` and those of zero, group_scale and input_scale
that it has. Files are checked like those of strangers.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kdnative.files import write_atomically
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight, pack_bits, unpack_bits
from kdnative.quantize.calibrated_layer import CalibratedLayer

__all__ = ["Layers", "read_layers", "write_layers"]

Layers = dict[str, tuple[QuantizedWeight, CalibratedLayer]]

_KEY = "kdnative_calibration"
_TENSORS = ("scale", "zero", "group_scale", "input_scale")
_FIELDS = {"name": str, "scheme": str, "method": str, "rows": int, "dead": int, "digest": str}
_ERRORS = ("error_before", "error_after")


def write_layers(path: str | Path, layers: Mapping[str, tuple[QuantizedWeight, CalibratedLayer]], extra: Any) -> None:
    """Writes layers in one step; ``extra`` is whatever JSON can hold."""
    tensors: dict[str, Tensor] = {}
    described = []
    for i, (weight, row) in enumerate(layers.values()):
        if weight.codebook is not None:
            raise ValueError(f"{row.name}: weights with a codebook can't be saved")
        codes = weight.qweight if weight.bits == 8 else pack_bits(weight.qweight.flatten(1), weight.bits)
        held = {"qweight": codes, **{name: getattr(weight, name) for name in _TENSORS}}
        tensors |= {f"{i}.{name}": t.cpu().contiguous().clone() for name, t in held.items() if t is not None}
        shape = {"shape": list(weight.qweight.shape), "bits": weight.bits, "group_size": weight.group_size}
        described.append({**dataclasses.asdict(row), **shape})
    text = json.dumps({"format": 1, "layers": described, "extra": extra}, allow_nan=False)
    write_atomically(path, lambda temporary: save_file(tensors, temporary, {_KEY: text}))


def read_layers(path: str | Path) -> tuple[Layers, Any]:
    """What `write_layers` wrote.

    Raises:
        ValueError: it is damaged, or no such file. OSError: it can't be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: file not found")
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {})[_KEY])
            if type(described) is not dict or described.get("format") != 1:
                raise ValueError(f"its format is {described.get('format')!r}, and this version reads 1")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return _layers(described["layers"], tensors), described["extra"]
    except KeyError as error:
        raise ValueError(f"{path} is no calibration, or damaged: it lacks {error}") from error
    except (AttributeError, RecursionError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no calibration, or damaged: {error}") from error


def _layers(described: Any, tensors: dict[str, Tensor]) -> Layers:
    if type(described) is not list:
        raise ValueError("its layers are not a list")
    found: Layers = {}
    for i, entry in enumerate(described):
        row = _row(entry)
        if row.name in found:
            raise ValueError(f"it has two layers named {row.name!r}")
        found[row.name] = (
            _weight(entry, {name: tensors.pop(f"{i}.{name}", None) for name in _TENSORS}, tensors, i),
            row,
        )
        if found[row.name][0].format.bits != Scheme.parse(row.scheme).weight_bits:
            raise ValueError(f"{row.name!r} has {found[row.name][0].bits} bits, and its scheme is {row.scheme}")
    if tensors:
        raise ValueError(f"it holds tensors that belong to no layer: {', '.join(sorted(tensors)[:3])}")
    return found


def _row(entry: Any) -> CalibratedLayer:
    for name, kind in _FIELDS.items():
        if type(entry[name]) is not kind:
            raise ValueError(f"{name} of a layer is a {type(entry[name]).__name__}, not a {kind.__name__}")
    for name in _ERRORS:
        value = entry[name]
        if value is not None and not (type(value) is float and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} of a layer is {value!r}")
    return CalibratedLayer(**{field.name: entry[field.name] for field in dataclasses.fields(CalibratedLayer)})


def _weight(entry: Any, held: dict[str, Tensor | None], tensors: dict[str, Tensor], i: int) -> QuantizedWeight:
    shape, bits, group_size = entry["shape"], entry["bits"], entry["group_size"]
    if type(shape) is not list or len(shape) < 2 or any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"the shape of a layer is {shape!r}")
    if type(bits) is not int or type(group_size) not in (int, type(None)):
        raise ValueError(f"bits={bits!r} and group_size={group_size!r} of a layer are not numbers")
    codes, scale = tensors.pop(f"{i}.qweight"), held.pop("scale")
    if codes.dim() != 2 or codes.shape[0] != shape[0]:
        raise ValueError(f"the codes of a layer have shape {list(codes.shape)}, and it has {shape}")
    if bits != 8:
        codes = unpack_bits(codes, bits, math.prod(shape[1:]))
    if codes.numel() != math.prod(shape) or scale is None:
        raise ValueError(f"the codes and scales of a layer of shape {shape} are incomplete")
    return QuantizedWeight(codes.view(shape), scale, bits=bits, group_size=group_size, **held)
