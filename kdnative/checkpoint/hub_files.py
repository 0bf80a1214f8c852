"""The files by which transformers knows a checkpoint: config.json, its code for trust_remote_code, an image processor.

``model_type`` is "kdnative", a type that transformers knows once ``kdnative.transformers`` is imported. Without it
transformers refuses the folder, so it never fills layers that it does not know with random weights.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from kdnative.checkpoint.settings import image_input_of
from kdnative.nn import ConvNet
from kdnative.nn.tree import NATIVE

__all__ = ["CODE", "MODEL_TYPE", "write_config"]

MODEL_TYPE = "kdnative"
CODE = "configuration_kdnative.py"
_CODE_TEXT = '''"""Registers kdnative with transformers: the same as `import kdnative.transformers` in your program."""

from kdnative.transformers import StudentConfig
'''


def write_config(folder: Path, model: nn.Module, described: dict[str, Any]) -> None:
    """Write what transformers reads, where a file is enough to build the model.

    Args:
        folder: of the files that go with a checkpoint.
        described: from :func:`kdnative.checkpoint.describing.describe`.
    """
    base, image_input = _base_of(described), image_input_of(model)
    if described["rebuild"] == "into" or (base is None and image_input is None):
        return
    architecture, config = base or ("StudentForImageClassification", {})
    labels = config.get("id2label") or {str(i): name for i, name in enumerate(_classes(described, image_input))}
    content = {
        "model_type": MODEL_TYPE,
        "architectures": [architecture],
        "auto_map": {"AutoConfig": f"{Path(CODE).stem}.StudentConfig"},
        "base_config": config or None,
        "id2label": labels,
        "label2id": {name: int(i) for i, name in labels.items()},
        "quantization_config": {"quant_method": MODEL_TYPE, "schemes": _schemes(described["modules"])},
    }
    _write(folder / "config.json", content)
    (folder / CODE).write_text(_CODE_TEXT, encoding="utf-8")
    if image_input is not None and not (folder / "preprocessor_config.json").exists():
        _write(
            folder / "preprocessor_config.json", {"image_input": image_input}
        )  # whose class follows from config.json


def _base_of(described: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Class and configuration of the model of transformers that this is, or was before it became one encoder."""
    if (part := described["transformers"]) is not None:
        return part["class"], part["config"]
    config = described["modules"][""].get("config", {}).get("transformers")
    return None if config is None else ((config.get("architectures") or ["AutoModel"])[0], config)


def _classes(described: dict[str, Any], image_input: dict[str, Any] | None) -> list[str]:
    """Names of the outputs of a model of pictures; as transformers names them where nobody has."""
    if image_input is None or image_input["classes"]:
        return [] if image_input is None else list(image_input["classes"])
    graph = described["modules"][""].get("config", {}).get("graph")
    return [] if graph is None else [f"LABEL_{i}" for i in range(graph["nodes"][graph["outputs"][0]]["channels"])]


def _schemes(modules: dict[str, dict[str, Any]]) -> list[str]:
    """The schemes of the native modules, each once, by name."""

    def names(value: Any) -> set[str]:
        if isinstance(value, (dict, list)):
            return set().union(*map(names, value.values() if isinstance(value, dict) else value))
        return {value} if isinstance(value, str) and re.match(r"w\d+a\d+", value) else set()

    native = [module for module in modules.values() if module["class"] in NATIVE]
    found = set().union(*(names(module["config"]) for module in native))
    return sorted(found | ({"w8a8"} if any(NATIVE[m["class"]] is ConvNet for m in native) else set()))


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
