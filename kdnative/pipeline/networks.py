"""Networks for pictures in recipes: torchvision's and timm's, with weights of a package, a file or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.checkpoint.weights import open_checkpoint
from kdnative.data.image_weights import WEIGHTS, is_cached, weights_file
from kdnative.extras import require
from kdnative.files import replace_text
from kdnative.pipeline.folder import PipelineError
from kdnative.shown import listed, shown

__all__ = ["DESCRIPTION", "Network", "build", "fitted", "is_here", "load_network", "load_saved", "network_of"]
__all__ += ["read_description", "save_description"]

DESCRIPTION = "network.json"  # beside a checkpoint: which network it is of
_LIBRARIES = ("torchvision", "timm")
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # under which files have the tensors
_KINDS = (
    "`package:mobilenet-v2`, `package:efficientnet-lite2`, `torchvision:NAME`, `timm:NAME`, or a folder that a run "
    "of an image recipe saved"
)


@dataclass(frozen=True)
class Network:
    """Which network, without values.

    Attributes:
        library, name: who builds it, and what it is called there. width: multiplier of its channels; None: its own.
        classes: names of what it tells apart.
    """

    library: str
    name: str
    width: float | None = None
    classes: tuple[str, ...] = ()


def network_of(source: str, width: float | None = None) -> Network:
    """The network that a recipe names, as far as the name says it.

    Raises:
        ValueError: a name that means nothing; the text says what names there are.
    """
    if source in WEIGHTS:
        found = WEIGHTS[source]
        return Network(found.library, found.name, width)
    library, colon, name = source.partition(":")
    if colon and library in _LIBRARIES and name:
        return Network(library, name, width)
    folder = Path(source)
    if not (folder / DESCRIPTION).is_file():
        problem = f"has no {DESCRIPTION}" if folder.is_dir() else "is no folder"
        raise ValueError(f"{source!r} {problem}; give {_KINDS}")
    described = read_description(folder)
    return replace(described, width=described.width if width is None else width)


def read_description(folder: Path) -> Network:
    """What `save_description` wrote beside a checkpoint."""
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return Network(str(found["library"]), str(found["name"]), found["width"], tuple(map(str, found["classes"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(f"{folder / DESCRIPTION} does not name its network: {error}") from error


def save_description(folder: Path, network: Network) -> None:
    """Says beside a checkpoint which network it is of."""
    replace_text(folder / DESCRIPTION, json.dumps(asdict(network), indent=1, ensure_ascii=False) + "\n")


def build(network: Network) -> nn.Module:
    """The network with new values from torch's global generator, and a head for its classes.

    Raises:
        ValueError: the library has none of this name, or it knows no width.
        ImportError: the library is not installed.
    """
    library, name, count = network.library, network.name, len(network.classes)
    told = f"{library}:{name}"
    options: dict[str, Any] = {} if network.width is None else {"width_mult": network.width}
    try:
        if library == "timm":
            options = {} if network.width is None else {"channel_multiplier": network.width}
            return require("timm", told).create_model(name, pretrained=False, num_classes=count, **options)
        models = require("torchvision", told).models
        if name in ("googlenet", "inception_v3"):
            options |= {"aux_logits": False, "init_weights": True}
        return models.get_model(name, weights=None, num_classes=count, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        if options.keys() & {"width_mult", "channel_multiplier"}:
            raise ValueError(
                f"{told} can't be built {network.width:g} times as wide ({error}): leave width out"
            ) from error
        raise ValueError(f"{library} has no network {name!r} for pictures ({error}); give {_KINDS}") from error


def load_network(
    source: str, weights: str | None, width: float | None, labels: Sequence[str]
) -> tuple[nn.Module, bool]:
    """The network of a recipe, with its weights and a head for the data's classes, in float32.

    Of weights of a wider network, those of evenly spaced channels are taken (Xu et al., "Initializing Models with
    Larger Ones", ICLR 2024).

    Args:
        source, weights, width: of the recipe's teacher or student.
        labels: class names of the data.

    Returns:
        The model, and whether its head is new.

    Raises:
        ValueError: no such network, or weights of another one.
    """
    network = replace(network_of(source, width), classes=tuple(labels))
    model = build(network)
    state, own = _state(source, weights, model)
    if state is None:
        return model, True
    return model, _take(model, state, f"{weights or source}", tuple(labels), own, selected=width is not None)


def load_saved(path: Path) -> nn.Module:
    """The model of a checkpoint, on the CPU, in evaluation mode; as its description says where it can't say it itself.

    Raises:
        PipelineError: there is no description, or a damaged one. ValueError: it is one of another model.
    """
    import kdnative

    if kdnative.inspect(path)["rebuild"] != "into":
        return kdnative.load(path).eval()
    with torch.random.fork_rng([]):
        empty = build(read_description(path))
    _, weights = open_checkpoint(path)
    with weights:
        model = kdnative.load(path, into=fitted(empty, dict(weights.shapes)))
    return model.to(memory_format=torch.channels_last).eval()


def is_here(source: str) -> bool:
    """Whether nothing has to be fetched for it."""
    return source not in WEIGHTS or is_cached(source)


def fitted(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> nn.Module:
    """A network in the sizes of a checkpoint: what pruning took from its layers is taken from these, in place.

    Args:
        shapes: of the checkpoint's tensors, by name.
    """
    for name, module in model.named_modules():
        wanted = shapes.get(f"{name}.weight")
        if wanted is None or not isinstance(getattr(module, "weight", None), Tensor):
            continue
        if list(module.weight.shape) != list(wanted):
            _resize(module, list(wanted), shapes.get(f"{name}.running_mean") is not None)
    return model


def _resize(module: nn.Module, shape: list[int], with_statistics: bool) -> None:
    def empty(old: Tensor | None, size: list[int]) -> Tensor | None:
        return None if old is None else old.new_empty(size)

    def parameter(old: nn.Parameter | None, size: list[int]) -> nn.Parameter | None:
        return None if old is None else nn.Parameter(empty(old.detach(), size), requires_grad=old.requires_grad)

    if isinstance(module, nn.Conv2d):
        if module.groups > 1 and module.weight.shape[1] == shape[1]:  # it lost whole groups
            module.groups = module.groups * shape[0] // module.out_channels
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = shape[0]
        if with_statistics:
            module.running_mean, module.running_var = (
                empty(module.running_mean, shape),
                empty(module.running_var, shape),
            )
    else:
        raise ValueError(f"a {type(module).__name__} can't take the shape {shape}")
    module.weight = parameter(module.weight, shape)
    module.bias = parameter(module.bias, shape[:1])


def _state(source: str, weights: str | None, model: nn.Module) -> tuple[dict[str, Tensor] | None, tuple[str, ...]]:
    """The tensors to start from, and the names of their classes; None, nothing, for a network that starts new."""
    if weights is not None:
        return _read(Path(weights)), ()
    if source in WEIGHTS:
        state = _read(weights_file(source))
        return (_renamed(state, network_of(source)) if WEIGHTS[source].by_position else state), ()
    if Path(source).is_dir():
        _, weights = open_checkpoint(Path(source))
        with weights:
            return weights.state(), read_description(Path(source)).classes
    return None, ()


def _renamed(state: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Tensors under the names that the network of a library has at the same places."""
    with torch.device("meta"):
        names = build(replace(network, width=None, classes=("",) * 1000)).state_dict()
    return dict(zip(names, state.values(), strict=True))


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth, .pt or .safetensors file; nothing in it is run.

    Raises:
        ValueError: there is none, or it holds something else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: weight file not found")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of unpickling
        raise ValueError(f"{path} is not a readable weight file: {' '.join(str(error).split())[:200]}") from error
    for name in _WRAPPERS:
        found = found[name] if isinstance(found, Mapping) and isinstance(found.get(name), Mapping) else found
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(f"{path} holds no named tensors: save model.state_dict() with torch.save")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def _take(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    labels: tuple[str, ...],
    own: tuple[str, ...],
    selected: bool,
) -> bool:
    """Copies tensors into the model but for a head of other classes, and returns whether the head is new."""
    mine = model.state_dict()
    head = _head(model, len(labels))
    keep_head = own == labels or (not own and _fits(mine, state, head))
    given = {name: tensor for name, tensor in state.items() if keep_head or name.rpartition(".")[0] != head}
    wanted = {name for name in mine if keep_head or name.rpartition(".")[0] != head}
    if not selected:
        given = {name: tensor for name, tensor in given.items() if name in wanted}  # auxiliary heads, and the like
    wanted = {name for name in wanted if name in given or not name.endswith("num_batches_tracked")}  # of old files
    if missing := sorted(wanted - given.keys()):
        raise ValueError(
            f"{source} has no {listed(missing[:3])}{' and others' if len(missing) > 3 else ''}, which the "
            "network needs: give the weights of the same network"
        )
    for name in sorted(wanted):
        tensor = given[name]
        if tensor.shape != mine[name].shape:
            if (
                not selected
                or tensor.dim() != mine[name].dim()
                or any(a < b for a, b in zip(tensor.shape, mine[name].shape, strict=True))
            ):
                raise ValueError(
                    f"{source}: {name} has shape {list(tensor.shape)}, the network needs {list(mine[name].shape)}: "
                    "give weights of the same network and width"
                )
            for axis, size in enumerate(mine[name].shape):
                tensor = tensor.index_select(axis, _spaced(tensor.shape[axis], size))
        given[name] = tensor
    model.load_state_dict({name: given[name] for name in wanted}, strict=False)
    return not keep_head


def _spaced(count: int, kept: int) -> Tensor:
    """Evenly spaced numbers below a count."""
    return torch.arange(kept) * count // kept


def _fits(mine: Mapping[str, Tensor], state: Mapping[str, Tensor], head: str) -> bool:
    weight = state.get(f"{head}.weight")
    return weight is not None and weight.shape == mine[f"{head}.weight"].shape


def _head(model: nn.Module, outputs: int) -> str:
    """The last layer of a network: a linear, or in SqueezeNet a convolution.

    Raises:
        ValueError: none has an output for each class.
    """
    found = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == outputs)
        or (isinstance(module, nn.Conv2d) and module.out_channels == outputs)
    ]
    if not found:
        raise ValueError(f"{type(model).__name__} has no layer with {shown(outputs)} outputs, one for each class")
    return found[-1]
