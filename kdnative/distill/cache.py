"""Soft labels of a teacher, computed once and kept in a file that knows what it was computed from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.data.batches import EncodedDataset
from kdnative.distill.topk import TopK
from kdnative.evaluate.predict import predict
from kdnative.files import write_atomically

__all__ = ["SoftLabelMismatch", "SoftLabels", "weights_hash"]

FORMAT = 1
MANIFEST = {"classes": int, "source": str, "data": str, "teacher": str, "settings": dict}
KEY = "kdnative.soft_labels"  # the only one: safetensors writes several in any order, and files would differ


class SoftLabelMismatch(ValueError):
    """The cached soft labels belong to another teacher or other data, or are damaged."""


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hex) of a model's class and state: names, dtypes, shapes and bytes of parameters and buffers."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):  # extra state of a module
            digest.update(f"{name}={tensor!r};".encode())
            continue
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class SoftLabels:
    """A teacher's logits for a whole dataset, in the order of the dataset.

    Attributes:
        target: fp32 [N, C], or a `TopK` with values fp32 [N, k], indices int64 [N, k] and perhaps rest fp32 [N].
        classes: C.
        source, data, teacher: hashes of what they were computed from: the texts, the tokenised texts, the weights.
        settings: top_k and temperature.
    """

    target: Tensor | TopK
    classes: int
    source: str
    data: str
    teacher: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def compute(
        cls,
        model: nn.Module,
        dataset: EncodedDataset,
        *,
        top_k: int | None = None,
        temperature: float | None = None,
        batch_size: int = 64,
        device: str | torch.device = "auto",
        amp: bool | str = False,
    ) -> SoftLabels:
        """Runs the teacher once over the dataset, in a fixed order (by length), without gradients.

        Args:
            model: the teacher. dataset: tokenised for the teacher; the student reads cached labels by position, so
                its own tokenisation may differ as long as it is of the same examples.
            top_k: keep that many logits of each example only; None keeps all.
            temperature: with `top_k`, also keep the remaining probability mass at this temperature (see `TopK`).
            batch_size, device, amp: of the computation.

        Raises:
            ValueError: the teacher gives NaN or infinite logits, or top_k exceeds the classes.
        """
        logits = predict(model, dataset, batch_size=batch_size, device=device, amp=amp).logits
        if not bool(torch.isfinite(logits).all()):
            row = int((~torch.isfinite(logits)).any(-1).nonzero()[0, 0])
            raise ValueError(f"the teacher's logits for example {row} are not finite: check the teacher, or use fp32")
        target = logits if top_k is None else TopK.of(logits, top_k, temperature)
        settings = _settings(top_k, temperature)
        source, data = dataset.source.fingerprint, dataset.fingerprint
        return cls(target, logits.shape[-1], source, data, weights_hash(model), settings)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file with a JSON manifest and a digest of all in its header, atomically."""
        from safetensors.torch import save_file

        tensors = {"logits": self.target} if isinstance(self.target, Tensor) else self._top_k_tensors()
        manifest = {"format": FORMAT, **{key: getattr(self, key) for key in MANIFEST}}
        manifest["sha256"] = _digest(manifest, tensors)
        metadata = {KEY: json.dumps(manifest, sort_keys=True)}
        write_atomically(path, lambda name: save_file(tensors, name, metadata))

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        model: nn.Module | None = None,
        dataset: EncodedDataset | None = None,
    ) -> SoftLabels:
        """Reads soft labels; whatever is given is checked against what they were computed from.

        Raises:
            FileNotFoundError: no such file.
            SoftLabelMismatch: another teacher, data or tokenisation, no file of soft labels, or a damaged one.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no soft labels here; compute them with SoftLabels.compute(...).save(path)"
            )
        try:
            found = cls(**_read(path))
        except ValueError as error:
            raise SoftLabelMismatch(f"{path}: {error}; delete the file to compute them again") from error
        expected = {
            "data or tokenisation": (found.data, None if dataset is None else dataset.fingerprint),
            "teacher's weights": (found.teacher, None if model is None else weights_hash(model)),
        }
        for what, (had, wanted) in expected.items():
            if wanted is not None and had != wanted:
                raise SoftLabelMismatch(
                    f"{path}: the soft labels were computed with other {what} ({_short(had)}, now "
                    f"{_short(wanted)}); delete the file to compute them again, or restore the original data"
                )
        return found

    def __len__(self) -> int:
        return len(self.target if isinstance(self.target, Tensor) else self.target.values)

    def __getitem__(self, index: Tensor) -> Tensor | TopK:
        """The rows of a batch (``batch.index``), on the CPU."""
        if isinstance(self.target, Tensor):
            return self.target[index]
        values, indices, rest, temperature = self.target
        return TopK(values[index], indices[index], None if rest is None else rest[index], temperature)

    def _top_k_tensors(self) -> dict[str, Tensor]:
        values, indices, rest, _ = self.target
        found = {"values": values.contiguous(), "indices": indices.contiguous()}
        return found if rest is None else {**found, "rest": rest}


def _settings(top_k: int | None, temperature: float | None) -> dict[str, Any]:
    return {"top_k": top_k, "temperature": None if top_k is None or temperature is None else float(temperature)}


def _read(path: Path) -> dict[str, Any]:
    """The arguments of `SoftLabels` from a file. Raises ValueError where it does not hold them, or has changed."""
    from safetensors import safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # safetensors has errors of its own, and torch may refuse what a header says
        raise ValueError(f"not a readable safetensors file ({error})") from error
    try:
        manifest = json.loads(metadata.get(KEY, "null"))
    except (ValueError, RecursionError):
        manifest = None
    whole = isinstance(manifest, dict) and all(isinstance(manifest.get(key), kind) for key, kind in MANIFEST.items())
    if not whole or manifest.get("format") != FORMAT:
        raise ValueError("not soft labels in this version's format")
    if manifest.pop("sha256", None) != _digest(manifest, tensors):
        raise ValueError("it has changed since it was saved")
    return {"target": _target(tensors, manifest), **{key: manifest[key] for key in MANIFEST}}


def _target(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> Tensor | TopK:
    """The tensors in the form that `SoftLabels` has them. Raises ValueError where they do not fit together."""
    kinds = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    n = next((tensor.shape[0] for tensor in tensors.values() if tensor.dim()), 0)
    if kinds == {"logits": (torch.float32, (n, manifest["classes"]))}:
        return tensors["logits"]
    temperature = manifest["settings"].get("temperature") if "rest" in kinds else None
    size = kinds.get("values", (None, (n, 0)))[1]
    wanted = {"values": (torch.float32, size), "indices": (torch.int64, size)}
    if isinstance(temperature, float):
        wanted["rest"] = (torch.float32, (n,))
    if kinds != wanted or len(size) != 2:
        raise ValueError("it does not hold soft labels")
    return TopK(tensors["values"], tensors["indices"], tensors.get("rest"), temperature)


def _digest(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 (hex) of a manifest and of names, dtypes, shapes and bytes of tensors."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)};".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
