"""What training as native networks knows besides weights, as a file: ranges of maps, factors, shifts of biases."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kdnative.cnn.equalization import Pair
from kdnative.cnn.training import TrainedNetwork
from kdnative.convert.network_training import trained_parts
from kdnative.files import write_atomically
from kdnative.formats.convnet.json import from_json, to_json

__all__ = ["restore_networks_", "save_networks"]

_FORMAT = "kdnative networks in training 1"


def save_networks(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes what `prepare_networks_` found out about a model, for `restore_networks_`. Weights are not in it.

    Raises:
        ValueError: the model is not prepared.
    """
    described: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for number, network in enumerate(trained_parts(model).values()):
        factors = sorted(network.factors.items(), key=lambda item: (item[0].first, item[0].second))
        described.append(
            {
                "modules": list(network.modules),
                "shape": list(network.shape),
                "graph": to_json(network.graph),
                "factors": [[pair.first, pair.second] for pair, _ in factors],
                "shifts": list(network.shifts),
            }
        )
        tensors |= {f"{number}.factors.{i}": factor.contiguous() for i, (_, factor) in enumerate(factors)}
        tensors |= {f"{number}.shifts.{i}": shift.contiguous() for i, shift in enumerate(network.shifts.values())}
    if not described:
        raise ValueError("the model is not prepared: call prepare_networks_ first")
    metadata = {"format": _FORMAT, "networks": json.dumps(described)}
    write_atomically(os.fspath(path), lambda file: save_file(tensors, file, metadata))


def restore_networks_(model: nn.Module, path: str | os.PathLike[str]) -> list[str]:
    """Prepares a float model as the one was that `save_networks` has written of, in place.

    Args:
        model: of the same structure, usually with the weights that training gave it.

    Returns:
        The names of the parts.

    Raises:
        ValueError: the file is damaged, or of another model. The model is unchanged then.
    """
    modules = dict(model.named_modules())
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError("it is a file of another kind")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        networks = [
            _network(number, plain, tensors, modules) for number, plain in enumerate(json.loads(metadata["networks"]))
        ]
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold networks of this model: {error}") from error
    for network in networks:
        network.install()
    return [next(iter(network.modules)) for network in networks]


def _network(
    number: int, plain: dict[str, Any], tensors: dict[str, Tensor], modules: dict[str, nn.Module]
) -> TrainedNetwork:
    graph = from_json(plain["graph"])
    pairs = [Pair(first, second) for first, second in plain["factors"]]
    return TrainedNetwork(
        _those(plain["modules"], modules),
        tuple(plain["shape"]),
        graph,
        {pair: tensors[f"{number}.factors.{i}"] for i, pair in enumerate(pairs)},
        {name: tensors[f"{number}.shifts.{i}"] for i, name in enumerate(plain["shifts"])},
    )


def _those(names: Iterable[str], modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    names = list(names)
    if missing := [name for name in names if name not in modules]:
        raise ValueError(f"the model has no module {missing[0]!r}")
    return {name: modules[name] for name in names}
