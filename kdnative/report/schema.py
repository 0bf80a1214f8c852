"""What the report reads: the files of one run folder, as typed dictionaries.

::

    runs/NAME/run.json                       RunInfo
    runs/NAME/recipe.yaml                    text, shown as it is
    runs/NAME/summary.json                   Summary: the final table and the goals
    runs/NAME/peers.json                     the student in other engines, see kdnative/report/peers.py
    runs/NAME/stages/STAGE/stage.json        StageRecord
    runs/NAME/stages/STAGE/metrics.json      any figures; these keys are understood wherever a stage has them:
        history      list[TrainingPoint]     training curve
        conversion   list[ConversionRow]     what became of each module
        latency      list[LatencyRow]        a grid over batch and length
        sensitivity  list[SensitivityRow]    what each layer loses alone
        gate         GateFindings            how a conversion with a gate was chosen

Only ``summary.json`` is required. What a run does not have is left out of the report and named as left out.
Fractions are in [0, 1], times in milliseconds unless the name says seconds, sizes in bytes. A number that could not be
measured is ``null``.
"""

from __future__ import annotations

from typing import Any, TypedDict


class Estimate(TypedDict):
    """A measured value and its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Ratio(TypedDict):
    """How many times faster: a ratio of medians and its 95 % interval, None where only the medians are known."""

    value: float
    low: float | None
    high: float | None


class Bin(TypedDict):
    """Test examples of about equal confidence."""

    confidence: float  # mean probability of the predicted class
    accuracy: float
    n: int


class Calibration(TypedDict):
    """Whether a classifier is as often right as it says."""

    ece: float  # expected calibration error
    chance: float  # what a perfectly calibrated one stays below in 95 % of the cases
    n: int
    bins: list[Bin]


class Percentiles(TypedDict):
    """Latency in milliseconds: 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float


class Measure(TypedDict, total=False):
    """One of the figures that say how good a model is."""

    key: str  # required: rows have an Estimate or a number under it
    name: str  # required: in headings and sentences
    percent: bool  # required: a share, shown in percent; else a plain number
    short: str | None  # heading of the table in a terminal; None: not there


class TaskInfo(TypedDict, total=False):
    """What the models are asked for."""

    name: str
    measures: list[Measure]  # required; the first one decides: epochs are chosen by it, and it is what students keep
    divergence: str  # unit of the divergence in SensitivityRow


class Quality(TypedDict, total=False):
    """How good a model is on the test split, for the measures of the task.

    Classification has ``accuracy``, ``macro_f1``, ``agreement`` (share of test examples on which it answers as the
    teacher does) and ``ece`` (expected calibration error); regression ``pearson``, ``spearman``, ``agreement``
    (correlation with the teacher's predictions) and ``rmse``.
    """

    accuracy: Estimate | None
    macro_f1: Estimate | None
    pearson: Estimate | None
    spearman: Estimate | None
    rmse: Estimate | None
    agreement: Estimate | None
    ece: float | None


class ModelRow(Quality, total=False):
    """One model of the final table, in the order of the pipeline."""

    key: str  # required: "teacher", "baseline", "distilled", "pruned", "native"
    name: str  # required: shown in tables and plots
    native: Quality  # the same model converted to native kernels without further training
    difference: Estimate | None  # deciding measure minus the teacher's, paired over the test examples
    kept: Estimate | None  # of the teacher's deciding measure, a paired ratio
    calibration: Calibration | None  # on the test split; classification only
    parameters: int | None
    bytes: int | None  # of the model file
    latency: dict[str, Percentiles]  # by way of running: "fp32", "bf16", "native"
    speedup: Ratio | None  # teacher fp32 latency / this model's native latency


class StepRow(TypedDict, total=False):
    """What one step of the pipeline bought: the run with it against the run without it."""

    stage: str  # required
    kind: str  # "distilled", "changed", "calibrated", "trained" or "converted"
    against: str  # required: what it is compared with, in words
    difference: Estimate  # required: of the deciding measure, paired over the test examples
    n: int  # test examples
    verdict: str  # required: "helped", "cost" or "no difference"
    note: str  # what the examples could show, where they show no difference
    seconds: float  # of the stage alone
    faster: Ratio | None  # native latency before / after; of "converted": torch fp32 / native
    smaller: float | None  # model file before / after


class GoalRow(TypedDict, total=False):
    """One goal of the recipe."""

    name: str  # required: what was asked for, in words
    target: float  # required
    value: float | None  # required: what was measured
    low: float | None  # 95 % interval of the value; ends are equal where it is exact
    high: float | None
    met: bool | None  # required; None: the interval holds the target, or nothing could be measured
    of: str  # what the interval comes from, such as "1,038 examples"
    unit: str  # "%", "x", "ms", "MB" or ""; with "%" target and value are fractions
    detail: str  # how the value came about


class LatencyCase(TypedDict, total=False):
    """The case that the final table's latencies belong to."""

    batch: int
    tokens: int  # of pictures: pixels on a side
    threads: int
    unit: str  # of these: "tokens" where it is left out, or "pixels"


class ExampleRow(TypedDict, total=False):
    """A test example on which student and teacher disagree; answers as a reader sees them."""

    index: int  # in the test split
    texts: list[str]  # of a picture the name of its file
    image: str  # of a picture: a data URI
    label: str
    teacher: str
    student: str


class CorruptionRow(TypedDict):
    """The deciding measure on worse pictures."""

    corruption: str  # "none", "noise", "blur", "jpeg"
    strength: int  # 0 of none, else 1 to 3
    n: int
    teacher: Estimate
    student: Estimate


class Summary(TypedDict, total=False):
    """summary.json."""

    task: TaskInfo  # required
    rows: list[ModelRow]  # required
    steps: list[StepRow]  # did it help?
    findings: list[str]  # what a reader should act on, in words
    gain: dict[str, Ratio]  # "total" = "smaller_model" * "native_kernels"
    goals: list[GoalRow]
    case: LatencyCase
    data: dict[str, Any]  # source, labels, "sizes": texts labelled, unlabelled, of validation and test
    base: dict[str, Any]  # the teacher's "source", its "name" on the hub and its "license", None where not known
    gate: dict[str, Any] | None  # of convert, see kdnative/precision/gate_report.py
    examples: list[ExampleRow]
    pictures: list[ExampleRow]  # of the test split, chosen by a hash
    corruptions: list[CorruptionRow]
    notes: list[str]  # anything a reader must know, in words


class RunInfo(TypedDict, total=False):
    """run.json."""

    name: str
    stages: list[str]  # of its recipe, in their order; no others are shown
    machine: dict[str, Any]  # any nesting of texts and numbers; shown as a table


class StageRecord(TypedDict, total=False):
    """stage.json of one stage."""

    stage: str
    seconds: float


class TrainingPoint(TypedDict, total=False):
    """One point of a training curve. A key that a point lacks has no value there."""

    step: int  # required
    epoch: float
    loss: float
    learning_rate: float
    validation_loss: float  # and "validation_" with the key of the deciding measure


class ConversionRow(TypedDict, total=False):
    """One module in the conversion report."""

    name: str
    kind: str  # class of the original module
    action: str  # "converted", "fused", "kept"
    scheme: str | None
    shape: list[int] | None
    reason: str
    bytes_before: int
    bytes_after: int
    method: str | None  # of calibration, that chose its weight


class LatencyRow(TypedDict):
    """One cell of a latency grid, as :func:`kdnative.machine.latency.latency_grid` returns it. Milliseconds."""

    model: str
    batch: int
    tokens: int
    threads: int
    p20: float
    p50: float
    p80: float


class SensitivityRow(TypedDict, total=False):
    """What the model loses when one layer alone is quantized or masked."""

    layer: str
    scheme: str
    drop: float  # of the deciding measure; positive is a loss
    divergence: float  # how far the outputs moved, in the unit that the task names


class GateTrial(TypedDict):
    """One conversion that a gate tested."""

    shares: dict[str, float]  # of the weights, by scheme
    bytes: int
    predicted: float  # sum of the layers' losses
    drop: float | None  # null: it gave NaN
    bound: float | None
    passed: bool


class GateLayer(TypedDict):
    """Linears that move together."""

    layer: str
    weights: int
    losses: dict[str, float | None]  # by scheme, in the unit of the gate's loss
    scheme: str | None  # that it got; "float" where it stays


class GateFindings(TypedDict, total=False):
    """What :meth:`kdnative.precision.GateReport.to_dict` returns. All but the parts is required."""

    metric: str
    words: str
    max_drop: float
    confidence: float
    chosen_on: int
    certified_on: int
    exact: bool  # bounds hold for any data; without it they do
    layers: list[GateLayer]
    assignment: dict[str, str]
    trials: list[GateTrial]
    per_class: dict[str, dict[str, float]]  # value, low, high, n
    per_slice: dict[str, dict[str, float]]
