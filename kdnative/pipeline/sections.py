"""The sections of a recipe's stages: typed, every key with its default and its meaning.

The sentence under a key is its description, see `kdnative.pipeline.schema`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from kdnative.machine.speedup import LEAST_SAMPLES
from kdnative.ops.backends import accepted
from kdnative.pipeline.schemes import TWO_BITS, Schemes, check_scales_inputs, of_bits, parse_schemes
from kdnative.pipeline.values import (
    Batches,
    Count,
    Epochs,
    Float,
    Fraction,
    Kept,
    Layers,
    NotNegative,
    Positive,
    PositiveFloat,
    Samples,
    Sentences,
    Share,
    Threads,
    Tokens,
    at_most,
)
from kdnative.quantize.methods import method_named
from kdnative.shown import shown


def _ascending(layers: Any) -> Any:
    if isinstance(layers, list) and (not layers or sorted(set(layers)) != layers):
        raise ValueError(f"layers must be ascending layer numbers without repeats, counted from 0, got {shown(layers)}")
    return layers


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, numbers are finite, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Shape(Section):
    """What a model keeps of its layers, heads and neurons."""

    heads: Kept = 0.0
    """Attention heads: the share to remove from every layer, or a list of how many each layer keeps."""
    ffn: Kept = 0.0
    """Feed-forward neurons: the share to remove from every layer, or a list of how many each layer keeps."""
    layers: Layers | list[Count] | None = None
    """Layers to keep: an ascending list, counted from 0 (`[1, 3, 5]`), or how many; null keeps all."""
    multiple_of: Positive | None = None
    """Kept widths are rounded to this; null means the tile of the kernels: 64, of channels 16, or 8 up to 32 of
    them."""
    _layers = field_validator("layers")(_ascending)

    @property
    def tile(self) -> int:
        """What widths of encoders are rounded to."""
        return self.multiple_of or 64


class Training(Section):
    """How a model learns."""

    epochs: Epochs = 3
    """Passes over the training split; 0 trains nothing."""
    lr: PositiveFloat = 5e-5
    """Peak learning rate of AdamW."""
    batch_size: Sentences = 32
    """Sentences in a batch, up to 65,536."""
    accumulate: Annotated[Positive, at_most(100_000, " batches")] = 1
    """Batches per step: what memory can't hold at once is added up, and the gradient is that of one large batch."""
    mask_tokens: Fraction = 0.0
    """Share of tokens that become the mask token, drawn anew in every epoch; a teacher then labels what is left, with
    every batch (Tang et al. 2019)."""
    warmup: Fraction = 0.1
    """Share of the steps in which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What the learning rate does after the warmup: `linear` or `cosine` decay, or `constant`."""
    weight_decay: NotNegative = 0.01
    """Weight decay of matrices; biases and normalisations have none."""
    clip_norm: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    label_smoothing: Fraction = 0.0
    """Share of every label that is spread over all classes."""
    class_weights: Literal["balanced"] | list[PositiveFloat] | None = None
    """Weight of each class in the loss of labels: a list in the order of the classes, or `balanced`, the inverse of
    each class's share."""
    amp: bool | Literal["auto"] = "auto"
    """bf16 autocast: `auto` (where the hardware multiplies bf16), `true` or `false`."""
    max_steps: Positive | None = None
    """Stop after this many steps."""
    select_best: bool = True
    """End with the weights of the epoch that was best on the validation split, not with the last ones."""
    select_by: str | None = None
    """What makes an epoch the best: `accuracy`, `macro_f1` or `loss`, for numbers `pearson`, `spearman`, `rmse` or
    `loss`; where a teacher is learned from also the distance to it, `kl`, for numbers `teacher_mse`; null means what
    decides."""
    early_stopping: Annotated[Epochs, Field(ge=1)] | None = None
    """End after so many epochs in a row that were no better by this measure, with `select_best`; null never does."""
    save_every: Positive = 100
    """Steps between saved training states; the end of each epoch is saved too."""

    @property
    def learns_from_teacher(self) -> bool:
        """Whether examples without a label are learned from."""
        return False

    @property
    def follows_teacher(self) -> bool:
        """Whether the best epoch is the one closest to the teacher where `select_by` does not say."""
        return False

    def learning(self) -> dict[str, Any]:
        """The keys that mean something to a model that is trained."""
        return dict(self)

    @model_validator(mode="after")
    def _knows_what_is_better(self):
        given = [key for key in ("early_stopping", "select_by") if getattr(self, key) is not None]
        if given and not self.select_best:
            raise ValueError(f"{given[0]} is {getattr(self, given[0])!r}, but select_best is false: set it to true")
        return self


class TeacherTraining(Training):
    """How the teacher learns."""

    fit_temperature: bool = False
    """Divide the teacher's logits by the temperature that fits its confidence to the validation split (Guo et al.
    2017); its answers stay the same, and its soft labels claim no more than it knows."""

    def learning(self) -> dict[str, Any]:
        return {key: value for key, value in super().learning().items() if key != "fit_temperature"}


class Distilling(Training):
    """How a model learns from the teacher: `L = hard_weight * CE(y, s) + soft_weight * T^2 * KL(softmax(t/T) ||
    softmax(s/T)) + hidden_weight * H`."""

    temperature: PositiveFloat = 2.0
    """The temperature T of the soft labels."""
    soft_weight: NotNegative = 1.0
    """Weight of the teacher's soft labels; 0 switches the term off."""
    soft_loss: Literal["kd", "dkd", "dist"] = "kd"
    """How soft labels are learned from: `kd` as above, `dkd` (the target and the other classes apart, Zhao et al. 2022)
    or `dist` (correlations, Huang et al. 2022)."""
    hard_weight: NotNegative = 1.0
    """Weight of the labels; 0 switches the term off."""
    hidden_weight: NotNegative = 0.0
    """Weight of the distance H to the teacher's hidden states; 0 switches the term off."""
    hidden_metric: Literal["mse", "cosine"] = "mse"
    """Distance H of hidden states: `mse` or `cosine`."""
    layer_map: dict[Count, Count] | None = None
    """Which hidden state of the student imitates which of the teacher, `{student: teacher}`, 0 being the embeddings;
    null spreads the layers evenly."""

    @property
    def learns_from_teacher(self) -> bool:
        return bool(self.soft_weight or self.hidden_weight)

    @model_validator(mode="after")
    def _some_weight(self):
        # Even with no epochs: the stage builds its loss first, which refuses this once the teacher has been trained.
        if not self.soft_weight + self.hard_weight + self.hidden_weight:
            raise ValueError("soft_weight, hard_weight and hidden_weight are all 0: there is nothing to learn from")
        return self


class Prune(Shape, Distilling):
    """What to remove from a model, and how the rest learns again."""

    macs: Share | None = None
    """Of pictures: the share of the model's multiplications that stays; channels go where they matter least."""
    latency: Share | None = None
    """Of pictures: the share of the layers' milliseconds on native kernels that stays, as measured on this machine."""
    epochs: Epochs = 2
    """Passes over the training split; 0 trains nothing."""
    importance: Literal["taylor", "magnitude"] = "taylor"
    """What makes a part worth keeping: `taylor` (first-order change of the loss) or `magnitude` (of the weights)."""
    calibration_batches: Batches = 16
    """Training batches for `taylor`."""


class Calibrate(Section):
    """How weights are rounded by what the layers are given: some training texts go through the float model first."""

    method: str | None = None
    """`smoothquant`, `gptq`, `awq`, `awq+gptq`, `clip`, `hqq` (needs no texts) or `rtn` (to the nearest); null means
    `smoothquant` for w8a8, else `gptq`."""
    texts: Annotated[Positive, at_most(100_000, " texts")] = 128
    """Training texts to look at, with a label or without."""
    batch_size: Sentences = 32
    """Sentences per forward pass."""
    sequential: bool = False
    """Layer by layer: each is calibrated behind layers that are rounded already; slower."""

    @field_validator("method")
    @classmethod
    def _known(cls, method):
        return None if method is None else method_named(method).name


class CompressTeacher(Section):
    """The form of the teacher that labels the training split."""

    scheme: str | None = "w8a8"
    """Scheme of the native teacher; with null the float teacher computes the soft labels and hidden states."""
    calibrate: Calibrate | None = None
    """How the native teacher's weights are calibrated (keys of the section `calibrate`); null rounds them to the
    nearest."""
    batch_size: Sentences = 64
    """Sentences per forward pass."""
    top_k: Positive | None = None
    """Keep only this many of the largest logits, for many classes; null keeps all."""
    temperature: PositiveFloat | None = None
    """With `top_k`: also keep the mass of the other classes at this temperature, which must be that of `distil`,
    `prune` and `recover`."""
    prune: Prune | None = None
    """What to remove from the teacher first (keys of the section `prune`), and how it then learns again, from the
    labels and from the teacher as it was."""

    @field_validator("scheme")
    @classmethod
    def _known(cls, scheme):
        return None if scheme is None else str(accepted(scheme))

    @model_validator(mode="after")
    def _rounded_on_purpose(self):
        if self.scheme is None and self.calibrate is not None:
            raise ValueError("scheme is null, so there are no weights for calibrate: leave one of them out")
        if self.calibrate is None and (coarse := of_bits(2, self.scheme)):
            raise ValueError(f"scheme is {coarse[0]} without calibrate. {TWO_BITS}")
        if self.calibrate is not None:
            check_scales_inputs("calibrate", self.calibrate.method, self.scheme)
        return self


class Recover(Distilling):
    """Quantization-aware distillation: the student learns in the integer arithmetic of the kernels."""

    epochs: Epochs = 2
    """Passes over the training split; 0 trains nothing."""
    schemes: Schemes = "w8a8"
    """One scheme, or `{pattern: scheme or null}`; the first pattern that fits a layer's name decides."""
    clip: Literal["search", "learn"] | None = None
    """Steps of the weights: null (those that `calibrate` found, else the whole range), `search`, or `learn` (LSQ, Esser
    et al. 2020)."""
    ternary: Literal["channel", "group"] | None = None
    """Weights of 2 bits get the codes -1, 0 and 1 alone, with a step for each `channel` or `group` (Li et al.
    2016); `calibrate` then finds these."""
    forward: Literal["linears", "native"] = "linears"
    """What runs in integers while it learns: its `linears`, or the whole `native` model, fused, with int8 embeddings;
    on the CPU, without dropout, slower. Networks of convolutions always learn as the native ones that they become."""
    select_by: str | None = None
    """What makes an epoch the best, as for other trainings; null means the distance to the teacher where it learns from
    one: a student that is good already goes backwards sooner than its accuracy shows."""
    _parse = field_validator("schemes")(parse_schemes)

    @property
    def follows_teacher(self) -> bool:
        return self.learns_from_teacher

    @model_validator(mode="after")
    def _two_bits(self):
        if self.ternary is not None and not of_bits(2, self.schemes):
            raise ValueError(f"ternary is {self.ternary!r}, but no scheme has 2 bits: give one such as w2a8-g32")
        return self


class Gate(Section):
    """A budget of quality: the layers that lose least get fewer bits, as long as the native student is shown to keep
    it."""

    metric: Literal["agreement", "accuracy", "kl", "mse"] | None = None
    """What may drop, from the float student to the native one: `agreement` (the share of answers that change),
    `accuracy`, `kl` (nats) or, of numbers, `mse`; null means `agreement`, of numbers `mse`."""
    max_drop: PositiveFloat
    """The budget, in the unit of the metric; shares are fractions: 98 % agreement is 0.02."""
    confidence: Annotated[Float, Field(gt=0.5, lt=1.0)] = 0.95
    """That the budget is kept, over the texts that the validation split is a sample of."""
    choosing: Annotated[Float, Field(gt=0.0, lt=1.0)] = 0.25
    """Share of the validation split by which schemes are chosen, at most 512 texts; the rest shows that the budget is
    kept."""
    minimise: Literal["bytes", "ms"] = "bytes"
    """What is made small: the `bytes` of the weights, or `ms`, the latency of the layers, measured in the benchmark's
    case."""


class Convert(Section):
    """How the student's modules become packed native ones."""

    schemes: Schemes | list[str] | None = None
    """One scheme, or `{pattern: scheme or null}`; for a gate a list from the fewest bits up; null means those of
    `recover`, else w8a8, for a gate w4a8-g64 and w8a8."""
    gate: Gate | None = None
    """What the native student may lose; null measures the loss and sets no bound."""
    embeddings: Literal[8] | None = 8
    """8: int8 tables; null: float, which also keeps the encoder from being fused."""
    keep: list[str] = []
    """Patterns of modules that stay in float."""
    clip_search: bool = False
    """Search clipping ranges for layers that `recover` has not trained."""
    _parse = field_validator("schemes")(parse_schemes)

    @model_validator(mode="after")
    def _chooses_or_not(self):
        if isinstance(self.schemes, list) and self.gate is None:
            raise ValueError(
                f"schemes is {shown(self.schemes)}, and only a gate chooses among several: give one scheme"
            )
        return self


class Evaluate(Section):
    """How the models are measured on the test split."""

    batch_size: Sentences = 64
    """Sentences per forward pass."""
    native_schemes: Schemes = "w8a8"
    """What the models of the float rows are converted to for their native figures, rounded to the nearest at any number
    of bits."""
    sensitivity: Count = 0
    """Validation examples for the table of which layer of the student loses what in w8a8 and w4a8-g64; 0: no table."""
    _parse = field_validator("native_schemes")(parse_schemes)


class Benchmark(Section):
    """How the models are timed."""

    batch: Sentences = 1
    """Sentences at once, in the case of the final table and the goals."""
    tokens: Tokens = 32
    """Tokens per sentence in that case; at most the models' positions."""
    threads: Threads | None = None
    """Torch threads; null means as in training."""
    repeats: Annotated[Samples, Field(ge=LEAST_SAMPLES)] = 30
    """Samples per model, interleaved; the median counts. With fewer than 5 a speed-up has no interval."""
    grid_batches: Annotated[list[Sentences], Field(max_length=100)] = [1, 8]
    """Sentences at once in the report's latency plot."""
    grid_tokens: Annotated[list[Tokens], Field(max_length=100)] = [16, 32, 128]
    """Tokens per sentence in the report's latency plot."""
    grid_repeats: Samples = 5
    """Samples per model and case of the report's latency plot."""


class Report(Section):
    """What is written about the run."""

    html: bool = True
    """Also write report.html and report.json."""
    examples: Annotated[Count, Field(le=100)] = 20
    """Texts of the test split in the report on which student and teacher disagree; 0 leaves them out, 100 at most."""
