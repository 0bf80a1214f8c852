"""A budget of quality that a converted model is shown to keep, or there is no converted model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from kdnative.convert.report import ConversionReport
from kdnative.data.batches import UNLABELLED
from kdnative.extras import require
from kdnative.precision.bounds import least_examples
from kdnative.precision.conversions import Conversions
from kdnative.precision.examples import Examples, call
from kdnative.precision.gate_report import GateError, GateReport
from kdnative.precision.judging import Judge
from kdnative.precision.ladder import Ladder, Schemes
from kdnative.precision.latency import measure_latency
from kdnative.precision.metrics import METRICS, Answers, Metric, Score, answers, metric_named
from kdnative.precision.path import float_path, mixed_path
from kdnative.precision.search import Paths, Search
from kdnative.precision.sensitivity import Sensitivity, sensitivity
from kdnative.precision.units import joint
from kdnative.quantize.linears import linears_of

__all__ = ["Gate"]

_DECIDING = ("keep", "embeddings", "fuse", "weights")
_MOST_CHOOSING = 512
_MOST_SENSITIVITY = 128
_MOST_CALIBRATION = 256


@dataclass(frozen=True)
class Gate:
    """Converts a model only as far as its answers allow::

        gate = kd.Gate("agreement", max_drop=0.02, data=texts, tokenizer=tokenizer)
        report = kd.convert_(model, ["w4a8-g64", "w8a8"], gate=gate)
        print(report.gate)

    The returned model's drop is at most ``max_drop`` with the given confidence, over the texts that ``data`` is a
    sample of; otherwise the call raises `GateError` and leaves the model alone. The examples are split by chance into
    two parts. On the first one the layers' losses are measured and schemes are assigned to them, for growing budgets of
    loss; on it the layers are calibrated, too, unless ``calibration=`` brings other data. On the second part these
    assignments are converted and tested one after the other, from the one that loses least to the smallest model, each
    at the full confidence, until the first that is not shown to be within budget; the one before it is returned. As the
    order was fixed before the second part was looked at, repeated tests don't spoil the confidence (fixed sequence
    testing: Maurer, Hothorn and Lehmacher, 1995; "Learn then Test", Angelopoulos and others, 2021).

    The confidence is that of one call. Who calls again with other seeds until one passes has tested several times.

    Where all layers in the most exact scheme seem to lose too much already, the worst of them stay in float, at the
    cost of speed: fused encoders are taken apart then.

    Args:
        metric: what may drop. "agreement": the share of examples whose class changes (tokens, in language models),
            which needs no labels. "accuracy": the share of right answers, with labels. "kl": mean KL(original ||
            converted) in nats. "cosine": mean of 1 - cosine of embeddings. "mse": mean squared difference. Or a
            function ``(outputs [N, ...], labels [N] or None)`` that gives a score for each example [N], or one for all
            of them; higher is better, and the drop is the float model's less the converted one's.
        max_drop: the budget, above 0, in the unit of the metric; shares are fractions (99 % agreement is 0.01).
        data: examples that neither training nor calibration saw: texts with ``tokenizer``, batches of the model's
            inputs, or a tokenized dataset. 1,000 to 10,000 for budgets of a few percent: `GateError` says how many are
            needed. Of language models the logits of all tokens are held for two models at once, and more than 4 GB for
            one are refused; "agreement" holds the class of each token alone.
        tokenizer: of transformers. max_length: of texts, in tokens. labels: [N], where the data has none of its own.
        confidence: of the one-sided bound. It is exact for agreement of classes and for accuracy (Clopper and Pearson),
            which have a case or none in each example. For all else it is approximate, and needs 300 examples that
            certify: for means a studentized bootstrap over examples plus what they can't show, the share that may be
            unseen times the largest drop that there can be (agreement of tokens 1, cosine 2), or else the largest that
            was seen; for functions that give one score a percentile bootstrap in which as many answers as may differ
            unseen are those of other examples.
        choosing: share of the examples in the first part, at most 512 of them.
        slices: ``{name: N times true or false}``; the report says the drop in each, and in each class.
        minimise: "bytes" of the weights, or "ms", the summed latency of the layers, which is measured.
        latency_rows: rows of activations (batch * tokens) of a typical call, for "ms".
        read: what to take of the model's output, ``(output, inputs) -> [B, ...]``; None: logits or embeddings.
        sensitivities: of an earlier run with the same model, schemes and weights; None: measured.
        batch_size: of the forwards. seed: of the split and the bootstrap.
        show: called with a line for each step.

    Raises:
        ValueError: arguments that can't be. TypeError: data of an unknown kind.
    """

    metric: str | Score = "agreement"
    _: KW_ONLY
    max_drop: float
    data: Any
    tokenizer: Any = None
    max_length: int = 128
    labels: Any = None
    confidence: float = 0.95
    choosing: float = 0.25
    slices: Mapping[str, Sequence[bool]] | None = None
    minimise: str = "bytes"
    latency_rows: int = 32
    read: Callable[[Any, Any], Tensor] | None = None
    sensitivities: Sequence[Sensitivity] | None = None
    batch_size: int = 32
    seed: int = 0
    show: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        require("scipy", "a gate")
        if isinstance(self.data, Iterator):
            object.__setattr__(self, "data", list(self.data))  # a gate may convert several models
        most = math.inf
        if isinstance(self.metric, str):
            most = metric_named(self.metric).most or math.inf
        elif not callable(self.metric):
            raise TypeError(f"metric is a {type(self.metric).__name__}: {', '.join(map(repr, METRICS))} or a function")
        if not 0 < self.max_drop < most:
            shares = "; for 99 % agreement give max_drop=0.01" if self.metric in ("agreement", "accuracy") else ""
            below = f"and below {most:g}" if math.isfinite(most) else "and finite"
            raise ValueError(f"max_drop={self.max_drop}: a budget is above 0 {below}{shares}")
        for name, low in (("confidence", 0.5), ("choosing", 0.0)):
            if not low < getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: within {low:g} and 1, both excluded")
        if self.minimise not in ("bytes", "ms"):
            raise ValueError(f"minimise={self.minimise!r}: allowed are 'bytes' and 'ms'")
        if self.batch_size < 1 or self.latency_rows < 1:
            raise ValueError("batch_size and latency_rows must be at least 1")

    @property
    def least_examples(self) -> int:
        """With fewer not even a model that never differs could be shown to keep the budget.

        A language model needs more for agreement, 300 that certify: a share of the tokens of a text is no yes or no.
        """
        if not isinstance(self.metric, str):
            return self._total(least_examples("mean", self.max_drop, self.confidence))
        metric = metric_named(self.metric)
        return self._total(least_examples(metric.counts, self.max_drop, self.confidence, metric.most))

    def convert_(
        self,
        model: nn.Module,
        schemes: Schemes = ("w4a8-g64", "w8a8"),
        *,
        calibration: Any = None,
        **options: Any,
    ) -> ConversionReport:
        """What ``kd.convert_(model, schemes, gate=self, ...)`` does.

        Args:
            model: float, on the CPU; changed in place on success only.
            schemes: one scheme, several from the fewest bits up, or ``{pattern: one, several or None}``. One of fewer
                than 8 bits means that one and 8 bits.
            calibration: data, or ``{scheme: Calibration}``; None: the choosing part of the gate's data.
            options: others of :func:`kdnative.convert_`.

        Returns:
            The report of the conversion; its ``gate`` is a `GateReport`.

        Raises:
            GateError: no model within the budget can be shown. ValueError: what `convert_` refuses.
        """
        examples = self._examples(options.get("tokenizer"))
        choosing, certifying = self._split(len(examples))
        # One answer tells whether metric, labels and examples fit, before minutes of calibration.
        self._check(self._judge(self._answers(model, examples, choosing[:1]), examples), examples, len(certifying))
        ladder = Ladder.of(model, schemes, **{name: options[name] for name in _DECIDING if name in options})
        if calibration is None:
            some = choosing[:_MOST_CALIBRATION]
            calibration = [inputs for inputs, _ in examples.batches(some, self.batch_size)]
        conversions = Conversions.of(model, ladder, calibration, options, self._say)
        rows = self._sensitivities(model, examples, choosing, conversions)
        search = Search(
            conversions,
            lambda model, chosen: self._answers(model, examples, chosen),
            lambda original: self._judge(original, examples),
            self.max_drop,
            self._say,
        )
        found = search.find(self._paths(model, rows), choosing, certifying)
        report = self._report(search.judge, len(choosing), len(certifying))
        report = replace(report, sensitivities=rows, trials=search.trials)
        if found is None:
            raise GateError(*search.refusal(report, self._total))
        assignment, answered = found
        slices = {name: np.asarray(chosen, bool) for name, chosen in (self.slices or {}).items()}
        report = replace(
            report,
            assignment=dict(assignment),
            per_class=search.judge.intervals(answered, _classes(search.judge, examples)),
            per_slice=search.judge.intervals(answered, slices),
        )
        converted = conversions.apply(assignment)  # the last step: an error before it leaves the model alone
        converted.gate = report
        return converted

    def _report(self, judge: Judge, chosen_on: int, certified_on: int) -> GateReport:
        own = not isinstance(judge.metric, Metric)
        name, words = ("own", "score lost") if own else (judge.metric.name, judge.metric.words)
        exact = judge.kind != "mean"
        return GateReport(name, words, self.max_drop, self.confidence, chosen_on, certified_on, exact=exact)

    def _answers(self, model: nn.Module, examples: Examples, rows: np.ndarray) -> Answers:
        agreement = self.metric == "agreement"
        return answers(model, examples, rows, read=self.read, batch_size=self.batch_size, classes=agreement)

    def _judge(self, original: Answers, examples: Examples) -> Judge:
        metric = metric_named(self.metric, original.kind) if isinstance(self.metric, str) else self.metric
        return Judge(metric, original, examples.labels, self.confidence, self.seed)

    def _total(self, certifying: int) -> int:
        """How many examples there must be for so many to certify."""
        return certifying + min(_MOST_CHOOSING, max(1, math.ceil(certifying * self.choosing / (1 - self.choosing))))

    def _check(self, judge: Judge, examples: Examples, certifying: int) -> None:
        """Refuses labels of no class, and too few examples to show the budget for a model that never differs.

        Args:
            judge: of one example.
        """
        if self.metric == "accuracy" and judge.original.kind == "classes":
            classes, labels = judge.original.classes, examples.labels
            assert labels is not None
            if wrong := labels[(labels < 0) | (labels >= classes)].tolist():
                raise ValueError(f"the label {wrong[0]} is not a class of the model: allowed are 0 to {classes - 1}")
        least, count = judge.least(self.max_drop), len(examples)
        if certifying < least:
            raise GateError(
                f"a budget of {self.max_drop:g} can't be shown with {count} examples, {certifying} of which "
                f"test the result: even a model without any difference needs about {self._total(least)}. The "
                "model is unchanged",
                self._report(judge, count - certifying, certifying),
                least,
            )

    def _sensitivities(
        self, model: nn.Module, examples: Examples, choosing: np.ndarray, conversions: Conversions
    ) -> list[Sensitivity]:
        """What each group of layers loses in each scheme that it may get, on some of the choosing examples."""
        ladder = conversions.ladder
        if self.sensitivities is not None:
            may = [row for row in self.sensitivities if ladder.allows(row.names, row.change)]
            if not may:
                raise ValueError(
                    "sensitivities= has no row for a layer and scheme of this conversion: measure the "
                    "sensitivities for these schemes"
                )
            return may
        part = examples.part(choosing[-_MOST_SENSITIVITY:])  # the first of them calibrate
        sites = linears_of(model)
        first, _ = next(part.batches(np.arange(len(part)), self.batch_size))
        groups = joint(model, {name: sites[name] for name in ladder.options}, lambda: call(model, first))
        self._say(f"measuring {len(groups)} groups of layers on {len(part)} examples")
        rows = sensitivity(
            model,
            part,
            ladder.schemes(),
            weights=conversions.calibrations,
            groups=groups,
            read=self.read,
            batch_size=self.batch_size,
            device="cpu",
        )
        rows = [row for row in rows if ladder.allows(row.names, row.change)]
        if self.minimise == "ms":
            return measure_latency(rows, model, rows=self.latency_rows)
        return rows

    def _paths(self, model: nn.Module, rows: list[Sensitivity]) -> Paths:
        mixed = mixed_path(rows, self.minimise)
        each = next((p.element_size() for p in model.parameters()), 4)
        return Paths(mixed, float_path(mixed[0], each))

    def _examples(self, tokenizer: Any) -> Examples:
        tokenizer = self.tokenizer or tokenizer
        found = Examples.of(
            self.data, tokenizer=tokenizer, labels=self.labels, max_length=self.max_length, name="data of the gate"
        )
        if self.metric == "accuracy" and found.labels is None:
            raise ValueError("metric='accuracy' needs labels: give labels=, or labelled data; 'agreement' needs none")
        if self.metric == "accuracy" and bool((found.labels < 0).any()):
            raise ValueError("metric='accuracy' needs a label for every example; 'agreement' needs none")
        for name, chosen in (self.slices or {}).items():
            if len(chosen) != len(found):
                raise ValueError(f"slice {name!r} has {len(chosen)} values for {len(found)} examples of the gate")
        return found

    def _split(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the choosing and of the certifying examples, by chance."""
        order = np.random.Generator(np.random.PCG64(self.seed)).permutation(count)
        first = min(_MOST_CHOOSING, max(1, round(self.choosing * count)))
        return order[:first], order[first:]

    def _say(self, text: str) -> None:
        if self.show is not None:
            self.show(text)


def _classes(judge: Judge, examples: Examples) -> dict[str, np.ndarray]:
    """Which examples are of each class: by their labels, or by what the float model says of them."""
    if judge.original.kind != "classes":
        return {}
    classes = np.full(len(examples), -1)
    classes[judge.rows] = judge.original.joined().argmax(-1).numpy()
    how = "said to be"
    labels = examples.labels
    if labels is not None and np.issubdtype(labels.dtype, np.integer) and labels.max() < judge.original.classes:
        classes, how = labels, "of class"
    names = examples.label_names
    found = {}
    for number in sorted(set(classes[judge.rows].tolist()) - {-1, UNLABELLED}):
        name = names[number] if number < len(names) else str(number)
        found[f"{how} {name}"] = classes == number
    return found
