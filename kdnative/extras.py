"""Optional packages: which extra brings which, and an error in words where one is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

# import name -> extra of this package that brings it
EXTRAS = {
    "transformers": "pipeline",
    "pydantic": "pipeline",
    "yaml": "pipeline",
    "tqdm": "pipeline",
    "scipy": "pipeline",
    "accelerate": "pipeline",
    "datasets": "hub",
    "huggingface_hub": "hub",
    "sentence_transformers": "embedders",
    "auto_round": "bench",
    "gguf": "bench",
    "nncf": "bench",
    "onnx": "bench",
    "onnxruntime": "bench",
    "onnxscript": "bench",
    "openvino": "bench",
    "torchao": "bench",
    "triton": "triton",
    "PIL": "vision",
    "torchvision": "vision",
    "timm": "vision",
}


def how_to_get(extra: str) -> str:
    """The command that installs an extra into an environment that has kdnative.

    pip then takes kdnative as it is installed and fetches only what the extra needs, so no index must have kdnative.
    """
    return f'pip install "kdnative[{extra}]"'


def require(module: str, what: str = "this", otherwise: str = "") -> ModuleType:
    """Imports an optional package.

    Args:
        module: one of :data:`EXTRAS`, or a part of it, such as PIL.Image.
        what: that needs it, as the error's first words.
        otherwise: how to do without it, as the error's last words.

    Raises:
        ImportError: the package is not installed; the text says which extra brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name not in (module, package):  # the package is there and misses something of its own
            raise
        text = f"{what} needs the package {package!r}, which is not installed: {how_to_get(EXTRAS[package])}"
        raise ImportError(f"{text}, {otherwise}" if otherwise else text) from error


def installed(module: str) -> bool:
    """Whether an optional package can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None
