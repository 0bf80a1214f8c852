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
        raise ValueError(
            f"layers must be a list of ascending layer numbers, counted from 0, without repeats, got {shown(layers)}"
        )
    return layers


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, numbers are finite, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Shape(Section):
    """Which layers, heads and neurons a model keeps."""

    heads: Kept = 0.0
    """Attention heads: the share to remove from every layer, or a list with the number that each layer keeps."""
    ffn: Kept = 0.0
    """Feed-forward neurons: the share to remove from every layer, or a list with the number that each layer keeps."""
    layers: Layers | list[Count] | None = None
    """Layers to keep: an ascending list, counted from 0 (`[1, 3, 5]`), or their number. null keeps all layers."""
    multiple_of: Positive | None = None
    """Kept widths are rounded to a multiple of this. null means the tile size of the kernels: 64, and for channels 16,
    or 8 if there are at most 32."""
    _layers = field_validator("layers")(_ascending)

    @property
    def tile(self) -> int:
        """What widths of encoders are rounded to."""
        return self.multiple_of or 64


class Training(Section):
    """How a model is trained."""

    epochs: Epochs = 3
    """Passes over the training split. 0 skips the training."""
    lr: PositiveFloat = 5e-5
    """Peak learning rate of AdamW."""
    batch_size: Sentences = 32
    """Examples per batch. At most 65,536."""
    accumulate: Annotated[Positive, at_most(100_000, " batches")] = 1
    """Batches per optimizer step. Their gradients add up to that of one large batch, which needs less memory."""
    mask_tokens: Fraction = 0.0
    """Share of tokens replaced by the mask token, drawn anew in every epoch. The teacher then labels every masked batch
    (Tang et al. 2019). 0 masks nothing."""
    warmup: Fraction = 0.1
    """Share of the steps in which the learning rate rises from 0 to `lr`."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Learning rate after the warmup: `linear` or `cosine` decay, or `constant`."""
    weight_decay: NotNegative = 0.01
    """Weight decay for weight matrices. Biases and normalisation layers have none."""
    clip_norm: PositiveFloat = 1.0
    """Gradients with a larger norm are scaled down to this norm."""
    label_smoothing: Fraction = 0.0
    """Share of each label that is spread evenly over all classes. 0 turns label smoothing off."""
    class_weights: Literal["balanced"] | list[PositiveFloat] | None = None
    """Weight of each class in the loss of the hard labels: a list in the order of the classes, or `balanced` for the
    inverse of the class's share."""
    amp: bool | Literal["auto"] = "auto"
    """bf16 autocast: `true`, `false`, or `auto` (only on hardware with bf16 arithmetic)."""
    max_steps: Positive | None = None
    """Stop after this many steps. null trains all epochs."""
    select_best: bool = True
    """`true` keeps the weights of the best epoch on the validation split, `false` those of the last epoch."""
    select_by: str | None = None
    """Measure that selects the best epoch: `accuracy`, `macro_f1` or `loss`, for numbers `pearson`, `spearman`, `rmse`
    or `loss`. With a teacher also the distance to it, `kl`, for numbers `teacher_mse`. null means the task's
    deciding measure."""
    early_stopping: Annotated[Epochs, Field(ge=1)] | None = None
    """Stop after this many epochs in a row without an improvement of `select_by`. Needs `select_best`. null never stops
    early."""
    save_every: Positive = 100
    """Steps between saved training states, from which `--resume` continues. The end of each epoch is saved too."""

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
    """How the teacher is fine-tuned."""

    fit_temperature: bool = False
    """`true` calibrates the teacher's confidence: its logits are divided by a temperature fitted to the validation
    split (Guo et al. 2017). The predicted classes stay the same."""

    def learning(self) -> dict[str, Any]:
        return {key: value for key, value in super().learning().items() if key != "fit_temperature"}


class Distilling(Training):
    """How a model learns from the teacher: `L = hard_weight * CE(y, s) + soft_weight * T^2 * KL(softmax(t/T) ||
    softmax(s/T)) + hidden_weight * H`."""

    temperature: PositiveFloat = 2.0
    """Temperature T of the soft labels. A higher value makes them more even."""
    soft_weight: NotNegative = 1.0
    """Weight of the teacher's soft labels in the loss. 0 trains without them."""
    soft_loss: Literal["kd", "dkd", "dist"] = "kd"
    """Loss of the soft labels: `kd` as above, `dkd` (target class and other classes weighted separately, Zhao et al.
    2022) or `dist` (correlations, Huang et al. 2022)."""
    hard_weight: NotNegative = 1.0
    """Weight of the hard labels in the loss. 0 trains on the teacher's answers only."""
    hidden_weight: NotNegative = 0.0
    """Weight of the distance H to the teacher's hidden states in the loss. 0 ignores them."""
    hidden_metric: Literal["mse", "cosine"] = "mse"
    """Distance H between hidden states: `mse` or `cosine`."""
    layer_map: dict[Count, Count] | None = None
    """Which hidden state of the student learns from which hidden state of the teacher, as `{student: teacher}`. 0 is
    the embeddings. null spreads the layers evenly."""

    @property
    def learns_from_teacher(self) -> bool:
        return bool(self.soft_weight or self.hidden_weight)

    @model_validator(mode="after")
    def _some_weight(self):
        # Even with no epochs: the stage builds its loss first, which refuses this once the teacher has been trained.
        if not self.soft_weight + self.hard_weight + self.hidden_weight:
            raise ValueError("soft_weight, hard_weight and hidden_weight are all 0: set at least one of them above 0")
        return self


class Prune(Shape, Distilling):
    """What to remove from a model, and how the smaller model is trained again."""

    macs: Share | None = None
    """Pictures only: the share of the model's multiplications to keep. The least important channels are removed."""
    latency: Share | None = None
    """Pictures only: the share of the layers' latency on native kernels to keep, measured on this machine."""
    epochs: Epochs = 2
    """Passes over the training split. 0 skips the training."""
    importance: Literal["taylor", "magnitude"] = "taylor"
    """How the importance of heads, neurons and channels is computed: `taylor` (first-order change of the loss) or
    `magnitude` (size of the weights)."""
    calibration_batches: Batches = 16
    """Number of training batches for `taylor`."""


class Calibrate(Section):
    """How quantized weights are calibrated. Some training texts run through the float model, and the weights are
    rounded to keep each layer's outputs on them."""

    method: str | None = None
    """`smoothquant`, `gptq`, `awq`, `awq+gptq`, `clip`, `hqq` (needs no texts) or `rtn` (rounding to nearest). null
    means `smoothquant` for w8a8 and `gptq` for other schemes."""
    texts: Annotated[Positive, at_most(100_000, " texts")] = 128
    """Number of training texts to calibrate on, labelled or not."""
    batch_size: Sentences = 32
    """Examples per forward pass."""
    sequential: bool = False
    """`true` calibrates layer by layer: each layer gets its inputs from quantized layers. Slower."""

    @field_validator("method")
    @classmethod
    def _known(cls, method):
        return None if method is None else method_named(method).name


class CompressTeacher(Section):
    """How the teacher is converted before it labels the training split."""

    scheme: str | None = "w8a8"
    """Scheme of the native teacher, which labels the data. null lets the float teacher label it."""
    calibrate: Calibrate | None = None
    """How the native teacher's weights are calibrated (keys of the section `calibrate`). null rounds them to
    nearest."""
    batch_size: Sentences = 64
    """Examples per forward pass."""
    top_k: Positive | None = None
    """Number of largest logits to keep per example, for data with many classes. null keeps all logits."""
    temperature: PositiveFloat | None = None
    """With `top_k`: temperature at which the probability of the remaining classes is kept. Must equal that of `distil`,
    `prune` and `recover`. null drops the remaining classes."""
    prune: Prune | None = None
    """What to prune from the teacher before the conversion (keys of the section `prune`), and how the pruned teacher is
    then trained on the labels and the unpruned teacher. null prunes nothing."""

    @field_validator("scheme")
    @classmethod
    def _known(cls, scheme):
        return None if scheme is None else str(accepted(scheme))

    @model_validator(mode="after")
    def _rounded_on_purpose(self):
        if self.scheme is None and self.calibrate is not None:
            raise ValueError(
                "scheme is null, so nothing is quantized, but calibrate is given: leave calibrate out, or give a scheme"
            )
        if self.calibrate is None and (coarse := of_bits(2, self.scheme)):
            raise ValueError(f"scheme is {coarse[0]}, but calibrate is missing. {TWO_BITS}")
        if self.calibrate is not None:
            check_scales_inputs("calibrate", self.calibrate.method, self.scheme)
        return self


class Recover(Distilling):
    """Quantization-aware distillation: the student is trained in the integer arithmetic of the kernels."""

    epochs: Epochs = 2
    """Passes over the training split. 0 skips the training."""
    schemes: Schemes = "w8a8"
    """One scheme, or `{pattern: scheme or null}`. The first pattern that matches a layer's name decides. null keeps the
    layer in float."""
    clip: Literal["search", "learn"] | None = None
    """Quantization steps of the weights: null (from `calibrate`, otherwise from the largest weight), `search`, or
    `learn` (LSQ, Esser et al. 2020)."""
    ternary: Literal["channel", "group"] | None = None
    """Restricts 2-bit weights to the codes -1, 0 and 1, with one step per `channel` or `group` (Li et al. 2016).
    `calibrate` then finds the steps. null uses all four codes."""
    forward: Literal["linears", "native"] = "linears"
    """What runs in integer arithmetic during training: the `linears`, or the whole fused `native` model with int8
    embeddings, which is slower, runs on the CPU and has no dropout. Convolutional networks always train in their
    native form."""
    select_by: str | None = None
    """Measure that selects the best epoch, as in the other training sections. null means the distance to the teacher,
    or the task's deciding measure without a teacher."""
    _parse = field_validator("schemes")(parse_schemes)

    @property
    def follows_teacher(self) -> bool:
        return self.learns_from_teacher

    @model_validator(mode="after")
    def _two_bits(self):
        if self.ternary is not None and not of_bits(2, self.schemes):
            raise ValueError(
                f"ternary is {self.ternary!r}, but no scheme has 2 bits: give a 2-bit scheme such as w2a8-g32, or "
                "leave ternary out"
            )
        return self


class Gate(Section):
    """A limit for the loss of the native student. The least sensitive layers get fewer bits, as long as the loss is
    shown to stay within the limit."""

    metric: Literal["agreement", "accuracy", "kl", "mse"] | None = None
    """How the loss from the float to the native student is measured: `agreement` (share of changed answers),
    `accuracy`, `kl` (nats) or, for numbers, `mse`. null means `agreement`, for numbers `mse`."""
    max_drop: PositiveFloat
    """Largest allowed loss, in the unit of the metric. Shares are fractions: 98 % agreement is 0.02."""
    confidence: Annotated[Float, Field(gt=0.5, lt=1.0)] = 0.95
    """Confidence with which the loss stays within `max_drop` on new texts like those of the validation split."""
    choosing: Annotated[Float, Field(gt=0.0, lt=1.0)] = 0.25
    """Share of the validation split used to choose schemes, at most 512 texts. The rest tests the chosen schemes."""
    minimise: Literal["bytes", "ms"] = "bytes"
    """What to minimise: `bytes`, the size of the weights, or `ms`, the latency of the layers at the size set in
    `benchmark`."""


class Convert(Section):
    """How the student is converted to packed native modules."""

    schemes: Schemes | list[str] | None = None
    """One scheme, or `{pattern: scheme or null}`. For a gate, a list in ascending order of bits. null means the schemes
    of `recover`, otherwise w8a8, and for a gate w4a8-g64 and w8a8."""
    gate: Gate | None = None
    """Largest loss that the native student may have. null measures the loss without a limit."""
    embeddings: Literal[8] | None = 8
    """8 stores embeddings as int8. null keeps them in float, and then the encoder can't be fused."""
    keep: list[str] = []
    """Name patterns of modules that stay in float."""
    clip_search: bool = False
    """`true` searches clipping ranges for the weights of layers that `recover` has not trained. `false` uses the full
    range."""
    _parse = field_validator("schemes")(parse_schemes)

    @model_validator(mode="after")
    def _chooses_or_not(self):
        if isinstance(self.schemes, list) and self.gate is None:
            raise ValueError(
                f"schemes is {shown(self.schemes)}, but only a gate can choose among several schemes: give "
                "one scheme, or add convert.gate"
            )
        return self


class Evaluate(Section):
    """How the models are measured on the test split."""

    batch_size: Sentences = 64
    """Examples per forward pass."""
    native_schemes: Schemes = "w8a8"
    """Scheme of the native figures of the float models. Their weights are rounded to nearest at any number of bits."""
    sensitivity: Count = 0
    """Validation examples for the sensitivity table: the loss from quantizing each single layer of the student to w8a8
    and to w4a8-g64. 0 leaves the table out."""
    _parse = field_validator("native_schemes")(parse_schemes)


class Benchmark(Section):
    """How latency is measured."""

    batch: Sentences = 1
    """Examples per batch for the final table and the goals."""
    tokens: Tokens = 32
    """Tokens per text for the final table and the goals. At most the models' number of positions."""
    threads: Threads | None = None
    """Torch threads. null means the same as in training."""
    repeats: Annotated[Samples, Field(ge=LEAST_SAMPLES)] = 30
    """Timed samples per model, taken in turn. The median is reported. Speed-ups have an interval from 5 samples on."""
    grid_batches: Annotated[list[Sentences], Field(max_length=100)] = [1, 8]
    """Batch sizes in the report's latency plot."""
    grid_tokens: Annotated[list[Tokens], Field(max_length=100)] = [16, 32, 128]
    """Tokens per text in the report's latency plot."""
    grid_repeats: Samples = 5
    """Timed samples per model and size in the report's latency plot."""


class Report(Section):
    """What is written about the run."""

    html: bool = True
    """Also write report.html and report.json."""
    examples: Annotated[Count, Field(le=100)] = 20
    """Number of test texts in the report on which student and teacher disagree. At most 100. 0 leaves them out."""
