"""Networks of convolutions in a model are trained as the networks of integers that they will be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from kdnative.cnn.spans import METHODS, USUAL
from kdnative.cnn.training import TrainedNetwork
from kdnative.convert.convolutions import SCHEME
from kdnative.convert.deciding import decide
from kdnative.convert.networks import calibrated_parts, inside, wanting_ranges
from kdnative.convert.plan import Network, Networks, Plan, nothing_converted
from kdnative.convert.refusals import Refusal
from kdnative.convert.surroundings import Surroundings
from kdnative.formats.scheme import Scheme
from kdnative.models.layer import Unsupported
from kdnative.nn.tree import walk
from kdnative.patterns import Selection
from kdnative.quantize.inputs import InputBatches

__all__ = ["check_trained", "finish_networks_", "prepare_networks_", "trained_networks", "trained_parts"]


def prepare_networks_(
    model: nn.Module,
    schemes: str | Scheme | Mapping[str, str | Scheme | None] = "w8a8",
    *,
    calibration: Iterable[Any],
    keep: Iterable[str] = (),
    method: str = USUAL,
) -> list[str]:
    """Makes a model with convolutions train as the native model that `convert_` makes of it, in place.

    The parts of it that `convert_` would make a :class:`kdnative.nn.ConvNet` of get another forward
    (:class:`kdnative.cnn.training.TrainedNetwork`): its values are those of the native network of the weights at that
    moment, bit for bit, and its gradients those of the float one. At first that is the network that ``convert_`` with
    the same arguments would make. ``convert_(model)`` afterwards, without calibration, makes the one that was trained.

    Train in float first: that is the warm-up, after which normalization is folded with its running statistics, which
    stay as they are, like the ranges of maps. The model keeps its objects, parameters and state dict; it can be copied
    and pickled, and a training that is resumed prepares the model it started from again. Dropout inside a part does
    nothing. Modules inside are not called any more, so hooks on them are refused.

    Linear layers outside of these parts are for `kdnative.quantize.prepare_qat_`, which comes after this.

    Args:
        model: on the CPU, with a forward that can be followed, as for `convert_`.
        schemes, keep: as for `convert_`; convolutions are ``w8a8``.
        calibration: batches of the model's inputs, as for `convert_`; for images 64 or more.
        method: how ranges of maps are found: "minmax", "percentile" or "mse".

    Returns:
        The names of the parts; "" is the whole model.

    Raises:
        ValueError: there is no network of convolutions (the text says why not), a pattern matches nothing, or asks for
            what can't be done, the model is prepared already, a parameter of a part is one that the network does not
            have as it is, or what `convert_` says of calibration. The model is unchanged then.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}: ranges can be found with {', '.join(map(repr, METHODS))}")
    if ready := list(trained_parts(model)):
        raise ValueError(f"{ready[0] or 'the model'} is already prepared: call finish_networks_ first")
    selection = Selection(schemes, keep, Scheme.parse)
    plan = decide(model, selection, values=True)
    wanted = wanting_ranges(plan, model)
    plan.check(awaiting=wanted)
    if not wanted:
        modules = dict(walk(model))
        left = [d for d in plan.decisions if d.refusal and isinstance(modules[d.name], nn.Conv2d)]
        why = "".join(f"\n  {decision.name}: {decision.refusal}" for decision in left)
        raise ValueError(
            f"there is no convolution to train: the model has none with scheme w8a8 that could be native{why}"
        )
    around = Surroundings.of(model, selection, values=True)
    made = calibrated_parts(plan, around, InputBatches(calibration), method)
    refusals = {name: Refusal(why) for name, why in made.refusals.items()}
    asked = {d.name: refusals[d.name] for d in wanted if d.explicit and d.name in refusals}
    if asked or not made.calibrations:
        raise ValueError(nothing_converted(asked or refusals).replace("converted", "prepared"))
    networks = {}
    for root, part in made.calibrations.items():
        try:
            chain = {name: around.modules[name] for name in made.found.chains[root]}
            networks[root] = TrainedNetwork.calibrated(chain, part)
        except Unsupported as error:
            raise ValueError(f"{root or 'the model'} can't be trained as an integer network: {error}") from error
    for network in networks.values():
        network.install()
    return list(networks)


def finish_networks_(model: nn.Module) -> list[str]:
    """Gives the parts that `prepare_networks_` prepared their own float forward again, in place.

    The weights stay as they are. `convert_` does not need this.

    Returns:
        The names of the parts; empty when there were none.
    """
    found = trained_parts(model)
    for network in found.values():
        network.remove()
    return list(found)


def trained_networks(model: nn.Module, selection: Selection[Scheme]) -> Networks | None:
    """What becomes of the convolutions of a prepared model; None for one that isn't.

    Raises:
        ValueError: something in a part is not to be converted as it was trained.
    """
    trained = trained_parts(model)
    if not trained:
        return None
    modules = dict(walk(model))
    parts = {}
    for root, network in trained.items():
        names = inside(tuple(network.modules), modules)
        for name in names:
            if isinstance(modules[name], nn.Conv2d | nn.Linear):
                scheme = selection.choose(name).value
                if scheme is None or scheme.plain != SCHEME:
                    raise ValueError(
                        f"{name} was trained as a part of a native network of {SCHEME}, and is to "
                        f"{'stay in float' if scheme is None else f'be {scheme}'} now: prepare the model so, or call "
                        "finish_networks_"
                    )
        parts[root] = Network(root, names, network.quantized())
    covered = {name for part in parts.values() for name in part.modules}
    others = [name for name, module in modules.items() if isinstance(module, nn.Conv2d) and name not in covered]
    return Networks(parts, dict.fromkeys(others, "it is not in a part that was trained as a native network"))


def check_trained(plan: Plan, networks: Networks) -> None:
    """ValueError where a part that was trained as a network is none in the plan."""
    regions = {region.root for region in plan.regions}
    rows = {decision.name: decision.refusal for decision in plan.decisions}
    lost = {
        root: rows.get(root) or Refusal("it is not a network in this plan")
        for root in networks.parts
        if root not in regions
    }
    if lost:
        raise ValueError(nothing_converted(lost))


def trained_parts(model: nn.Module) -> dict[str, TrainedNetwork]:
    """The parts that `prepare_networks_` has prepared, by their names."""
    forwards = {name: vars(module).get("forward") for name, module in model.named_modules()}
    return {name: network for name, network in forwards.items() if isinstance(network, TrainedNetwork)}
