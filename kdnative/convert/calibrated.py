"""Integer weights that a conversion gets from calibration: from data, or from one that was made before."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from kdnative.convert.plan import Networks, Plan, nothing_converted
from kdnative.convert.refusals import Refusal
from kdnative.convert.rounded import quantized_linears
from kdnative.formats.scheme import Scheme
from kdnative.quantize.calibrating import calibrate_layers
from kdnative.quantize.calibration import Calibration
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.linears import LinearSite, linears_of
from kdnative.quantize.methods import Method
from kdnative.shown import listed

__all__ = ["calibrated", "nothing_left"]


def calibrated(
    plan: Plan,
    model: nn.Module,
    calibration: Iterable[Any] | InputBatches | Calibration | None,
    method: str | Method | None,
    tokenizer: Any,
    given: Collection[str],
) -> Calibration:
    """The weights of every linear that a plan quantizes.

    Args:
        plan: the layers, and their schemes.
        model: the one that the plan is of, in float.
        calibration, method, tokenizer: as for :func:`kdnative.convert_`.
        given: layers whose weights are there already.

    Raises:
        ValueError, TypeError: see :func:`kdnative.convert_`.
    """
    sites = linears_of(model)
    schemes = quantized_linears(plan, sites)
    if isinstance(calibration, Calibration):
        if method is not None:
            words = f"this Calibration was made with {calibration.method!r}, so it can't take method="
            raise ValueError(f"{words}{method!r}: leave method= out, or give batches or texts")
        if twice := [name for name in calibration if name in given]:
            raise ValueError(f"weights= and calibration= both have weights for {listed(twice)}: leave one of them out")
        return _checked(calibration, {name: s for name, s in schemes.items() if name not in given}, sites)
    schemes = {name: scheme for name, scheme in schemes.items() if name not in given}
    if not schemes:
        modules = dict(model.named_modules())
        left = {d.name: d.refusal for d in plan.decisions if d.refusal and isinstance(modules[d.name], nn.Conv2d)}
        if left:
            raise ValueError(nothing_converted(left))
        raise ValueError(
            "there is nothing to calibrate, because every linear layer stays in float, is native already, "
            "was trained for its scheme or has its weight in weights=: leave calibration= and method= out"
        )
    batches = None
    if calibration is not None:
        batches = calibration if isinstance(calibration, InputBatches) else InputBatches(calibration, tokenizer)
        batches.warn_if_few(stacklevel=4)
    return calibrate_layers(model, schemes, batches, method=method, stacklevel=4)


def nothing_left(plan: Plan, model: nn.Module, networks: Networks) -> bool:
    """Whether networks of convolutions took all that there was to calibrate.

    Raises:
        ValueError: there are no linears to calibrate, and no networks either.
    """
    if quantized_linears(plan, linears_of(model)):
        return False
    if not networks.parts:
        raise ValueError(nothing_converted({name: Refusal(why) for name, why in networks.refusals.items()}))
    return True


def _checked(calibration: Calibration, schemes: dict[str, Scheme], sites: dict[str, LinearSite]) -> Calibration:
    """What a calibration has for these layers, if it is of their very weights."""
    rows = {row.name: row for row in calibration.rows}
    if missing := [name for name in schemes if name not in rows]:
        raise ValueError(
            f"the calibration has no weights for {listed(missing)}: calibrate with the same schemes and "
            "keep=, or leave these layers in float with keep="
        )
    if other := [name for name in schemes if sites[name].digest() != rows[name].digest]:
        raise ValueError(
            f"the calibration was made for another model or for other weights: the weights of {listed(other)} "
            "have changed. Calibrate again with the current model"
        )
    return Calibration(
        {name: calibration[name] for name in rows if name in schemes}, [rows[name] for name in rows if name in schemes]
    )
