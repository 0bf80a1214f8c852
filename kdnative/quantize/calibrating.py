"""The calibration pass: integer weights that are chosen for the inputs that layers really get."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.ops.backends import backend_for
from kdnative.patterns import Selection
from kdnative.quantize.calibrated_layer import CalibratedLayer
from kdnative.quantize.calibration import Calibration
from kdnative.quantize.calibration_state import CalibrationState
from kdnative.quantize.gathering import gather, in_passes
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.linears import LinearSite, linears_of
from kdnative.quantize.methods import Method, compensation, method_named
from kdnative.quantize.output_error import output_error
from kdnative.quantize.progress import progress_of
from kdnative.quantize.rtn import quantize_weight
from kdnative.quantize.statistics import Accumulator, Statistics
from kdnative.quantize.watching import Group, find_groups
from kdnative.shown import listed

__all__ = ["calibrate_", "calibrate_layers", "usual_method", "without_input_scales"]


def calibrate_(
    model: nn.Module,
    schemes: str | Scheme | Mapping[str, str | Scheme | None] = "w8a8",
    calibration: Iterable[Any] | None = None,
    *,
    method: str | Method | None = None,
    keep: Iterable[str] = (),
    tokenizer: Any = None,
    max_length: int = 128,
    batch_size: int = 32,
    sequential: bool = False,
    state_path: str | Path | None = None,
    progress: bool | Callable[[str, int, int], None] = False,
) -> Calibration:
    """Quantizes every linear of a model for the inputs that it gets on calibration data.

    The model is run on the data, in eval mode and without gradients, and keeps its weights: the result is for
    ``kdnative.convert_(model, schemes, calibration=result)``. Linears that are given the very same tensor in every
    call, such as queries, keys and values, are quantized together. Rows of padding are left out where the batch has an
    ``attention_mask`` or torch's ``src_key_padding_mask`` [B, T] and the layer's input is [B, T, K]; of inputs of other
    shapes every row counts.

    One example of sixteen, chosen by a hash of its values, is held out: methods do not see it, and the errors in the
    rows of the result are measured on it. There is a warning where methods that make up for errors saw fewer rows than
    a layer has inputs, and where a layer is worse on what was held out than one that is rounded to the nearest.

    Weights are found for the linears as they are. A layer that has factors behind its linears (LayerScale, as in
    DINOv2) is not fused with them, as the fused operator has the factors in its weights; its linears are native by
    themselves.

    Statistics of all layers are taken with the inputs of the float model, in one pass unless they need more than a
    gigabyte. The order of the batches, and where they are cut, change them by rounding errors only.

    Args:
        model: float32, bfloat16 or float16. ``nn.Linear``, the ``Conv1D`` of GPT-2 and ``nn.MultiheadAttention`` are
            calibrated; native layers and those trained for a scheme are left alone.
        schemes: as for `kdnative.convert_`: one for all, or {pattern: scheme or None}.
        calibration: batches of the model's inputs (dicts of keyword arguments, tuples of arguments, or tensors), or
            texts. 128 texts are usual; a method without data needs none.
        method: a name of `kdnative.quantize.methods.METHODS` or a `Method`. None: of each layer the usual one of its
            scheme, see `usual_method`.
        keep: patterns of layers to leave alone.
        tokenizer: of transformers, for texts.
        max_length: texts are cut to this many tokens.
        batch_size: texts in a batch.
        sequential: calibrate layer by layer in the order of execution, each on inputs that were computed with the
            quantized weights of those before it (activations stay float). It costs a forward for each group of layers.
        state_path: a folder that takes in the layers that are done. A calibration that was killed goes on there, and
            gives the same bits as one that was not.
        progress: True shows bars of tqdm; or it is called with what is being done, how much of it is done, and how much
            there is.

    Returns:
        The integer weights by the names of their layers, and what is known of each.

    Raises:
        ValueError: no data where the method needs some; data that is empty, or all padding; a layer that never runs, or
            is given NaN or infinite values; NaN or infinite weights; an unknown method; a pattern that matches nothing;
            a scheme that has no kernel for a layer that a pattern other than ``*`` names; a state of something else.
        TypeError: something that is no data.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"calibrate_ takes a torch.nn.Module, not {type(model).__name__}")
    selection = Selection(schemes, keep, without_input_scales)
    found = linears_of(model)
    selection.check_used(list(found))
    wanted: dict[str, Scheme] = {}
    refused = ""
    for name, site in found.items():
        choice = selection.choose(name)
        if choice.value is None:
            continue
        if (why := backend_for(site.weight.device).refusal(choice.value, tuple(site.weight.shape))) is None:
            wanted[name] = choice.value
        elif choice.explicit:
            raise ValueError(f"{name or 'the model'}: {why}")
        else:
            refused = refused or f", and {name or 'it'} can't be quantized: {why}"
    if not wanted:
        raise ValueError(f"there is no layer to calibrate; the model has {len(found)} linear layers in float{refused}")
    batches = None
    if calibration is not None:
        batches = InputBatches(calibration, tokenizer, max_length, batch_size)
        batches.warn_if_few()
    return calibrate_layers(
        model,
        wanted,
        batches,
        method=method,
        sequential=sequential,
        state_path=state_path,
        progress=progress,
    )


def without_input_scales(scheme: str | Scheme) -> Scheme:
    """A scheme as calibration starts from it: whether there are input scales follows from the method."""
    return Scheme.parse(scheme).with_input_scales(False)


def usual_method(scheme: Scheme) -> str:
    """The method of a scheme where none is asked for.

    "smoothquant" for 8 bits with int8 activations, whose rounding is most of the error; otherwise, and where zeros are
    left out, "gptq".
    """
    smooth = scheme.weight_bits == 8 and scheme.activation_bits == 8 and scheme.sparsity is None
    return "smoothquant" if smooth else "gptq"


def calibrate_layers(
    model: nn.Module,
    schemes: Mapping[str, Scheme],
    batches: InputBatches | None,
    *,
    method: str | Method | None = None,
    sequential: bool = False,
    state_path: str | Path | None = None,
    progress: bool | Callable[[str, int, int], None] = False,
    stacklevel: int = 3,
) -> Calibration:
    """`calibrate_` for layers that were chosen already, by their names in `linears_of`.

    ``stacklevel``: of warnings, as for ``warnings.warn``.
    """
    sites = linears_of(model)
    sites = {name: sites[name] for name in sites if name in schemes}
    methods = {name: method_named(method or usual_method(scheme)) for name, scheme in schemes.items()}
    if batches is None and (reading := {m.name for m in methods.values() if m.needs}):
        raise ValueError(
            f"method {', '.join(sorted(reading))} needs calibration data: give calibration=[batch, ...] or texts, or "
            "use a method without data ('rtn', 'hqq')"
        )
    if empty := [name for name, site in sites.items() if site.weight.is_meta]:
        raise ValueError(f"the weights of {listed(empty)} are on the meta device and have no values")
    if bad := [name for name, site in sites.items() if not bool(torch.isfinite(site.weight).all())]:
        raise ValueError(f"NaN or infinite values in the weights of {listed(bad)}: repair the checkpoint")
    found = _Pass(model, sites, schemes, methods, batches, sequential, state_path, progress).run()
    making_up = [row for row in found.rows if "second_moment" in methods[row.name].needs]
    if few := [row.name or "the model" for row in making_up if row.rows < sites[row.name].inputs]:
        warnings.warn(
            f"calibration has fewer rows than inputs for {listed(few, most=3)}, so the weights may overfit "
            "these rows: give more data",
            stacklevel=stacklevel,
        )
    if worse := [row.name or "the model" for row in found.rows if row.is_worse]:
        warnings.warn(
            f"rounding to nearest has less error on held-out data for {listed(worse, most=3)}: give more "
            "calibration data, or use another method",
            stacklevel=stacklevel,
        )
    return found


@dataclass
class _Pass:
    """One calibration."""

    model: nn.Module
    sites: dict[str, LinearSite]
    schemes: Mapping[str, Scheme]
    methods: Mapping[str, Method]
    batches: InputBatches | None
    sequential: bool
    state_path: str | Path | None
    shown: bool | Callable[[str, int, int], None]

    def run(self) -> Calibration:
        self.progress = progress_of(self.shown)
        self.digests = {name: site.digest() for name, site in self.sites.items()}
        state = None if self.state_path is None else CalibrationState(Path(self.state_path), self._origin())
        self.done: dict[str, tuple[QuantizedWeight, CalibratedLayer]] = {} if state is None else state.read()
        self.most_bytes, total = 0, len(self.sites)
        self.parameters: dict[str, Tensor] = {}  # dequantized, for the layers behind them
        if self.sequential:
            self.parameters = {self.sites[name].path: self._dequantized(name) for name in self.done}
        with self.progress:
            for group, statistics in self._groups():
                found = dict(self._quantized(group, statistics))
                self.done |= found
                if self.sequential:
                    self.parameters |= {self.sites[name].path: self._dequantized(name) for name in found}
                if state is not None:
                    state.write(found)
                self.progress("quantizing", len(self.done), total)
        weights = {name: self.done[name][0] for name in self.sites}
        return Calibration(weights, [self.done[name][1] for name in self.sites], self.most_bytes)

    def _groups(self) -> Iterator[tuple[Group, Statistics | None]]:
        """What is left to be quantized, and the statistics of its inputs."""
        if all(name in self.done for name in self.sites):
            return
        if self.batches is None:
            yield from ((Group((name,), ()), None) for name in self.sites if name not in self.done)
            return
        groups = find_groups(self.model, self.sites, self.batches, self.progress)
        left = [group for group in groups if any(name not in self.done for name in group.names)]
        for several in [[group] for group in left] if self.sequential else in_passes(left, self._bytes):
            needs = {group.names: self._needs(group) for group in several}
            statistics = gather(
                self.model,
                self.sites,
                self.batches,
                needs,
                self.parameters,
                several[0] if self.sequential else None,
                self.progress,
            )
            working = max(self._bytes_at_work(group) for group in several)
            self.most_bytes = max(self.most_bytes, sum(map(self._bytes, several)) + working)
            for group in several:
                yield group, statistics.pop(group.names)

    def _bytes(self, group: Group) -> int:
        return Accumulator.bytes_of(self.sites[group.names[0]].inputs, self._needs(group))

    def _bytes_at_work(self, group: Group) -> int:
        needed = "second_moment" in self._needs(group)
        return compensation.bytes_of(self.sites[group.names[0]].inputs) if needed else 0

    def _needs(self, group: Group) -> frozenset[str]:
        """What the methods of a group read, and the rows on which errors are measured."""
        return frozenset({"held"}).union(*(self.methods[name].needs for name in group.names))

    def _quantized(
        self, group: Group, statistics: Statistics | None
    ) -> Iterator[tuple[str, tuple[QuantizedWeight, CalibratedLayer]]]:
        """The weights of a group, those of one scheme together."""
        kinds = dict.fromkeys((self.schemes[name], self.methods[name].name) for name in group.names)
        scales: dict[tuple[object, ...], Tensor | None] = {}  # of what may become one product
        for kind in kinds:
            names = [name for name in group.names if (self.schemes[name], self.methods[name].name) == kind]
            scheme, method = kind[0], self.methods[names[0]]
            form = scheme.weight  # with or without zero points
            product = (form.bits, form.group_size, form.integer_scales, form.sparsity, scheme.activation, method.name)
            if product in scales:
                method = method.settled(scales[product])
            weights = [self.sites[name].weight for name in names]
            try:
                made = method.quantize(weights, scheme, statistics)
            except ValueError as error:
                raise ValueError(f"{', '.join(name or 'the model' for name in names)}: {error}") from error
            scales.setdefault(product, made[0].input_scale)
            for name, weight, quantized in zip(names, weights, made, strict=True):
                yield name, (quantized, self._row(name, weight, quantized, statistics))

    def _row(
        self, name: str, weight: Tensor, quantized: QuantizedWeight, statistics: Statistics | None
    ) -> CalibratedLayer:
        scheme, method = self.schemes[name], self.methods[name]
        before = after = None
        rows = dead = 0
        if statistics is not None:
            assert statistics.held is not None and statistics.largest is not None
            rows, dead = statistics.rows, int((statistics.largest == 0).sum())
            if len(statistics.held):
                after = output_error(weight, quantized, scheme, statistics.held)
                before = output_error(weight, quantize_weight(weight, scheme), scheme, statistics.held)
        return CalibratedLayer(name, str(scheme), method.name, rows, dead, before, after, self.digests[name])

    def _dequantized(self, name: str) -> Tensor:
        return self.sites[name].as_parameter(self.done[name][0].dequantize())

    def _origin(self) -> dict[str, str]:
        """What a state must be of, by what it is called in an error."""
        settings = {name: (str(self.schemes[name]), repr(self.methods[name])) for name in self.sites}
        return CalibrationState.origin_of(self.model, self.batches, (self.sequential, settings))
