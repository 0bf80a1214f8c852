"""What a model and its tokenizer can take, compared with what a recipe asks of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.machine.memory import machine_memory
from kdnative.models import hf
from kdnative.models.family import family_of
from kdnative.pipeline.folder import PipelineError

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe

__all__ = ["check_mask_token", "check_sizes", "positions"]

# Names of the tables that transformers' models look up a token's position in.
_TABLES = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
_FLOAT = 4  # bytes


def positions(model: nn.Module) -> int | None:
    """The most tokens that a text classifier of transformers can read; None where nothing says that there is a limit.

    Read from the tables of positions, of which some models leave rows unused (a RoBERTa with 514 rows reads 512
    tokens). Rotary positions have no table and end where the native kernels end, in the families that those know.
    """
    limits = [table.num_embeddings - _unused_rows(table) for table in _position_tables(model)]
    base, declared = getattr(model, "base_model", model), _declared(model)
    if declared is not None and (limits or family_of(base, "models") is not None):
        limits.append(declared)
    return min(limits, default=None)


def check_sizes(recipe: Recipe, who: str, source: str, model: nn.Module, pending: Collection[str]) -> None:
    """Refuses texts that are longer than a model's positions, and cases of the benchmark that no memory holds.

    Args:
        who: "teacher" or "student".
        source: where the model comes from, as the recipe says.
        model: the model, with or without values.
        pending: names of the stages that are still to run; what no other stage needs is not looked at.

    Raises:
        PipelineError: a stage is bound to fail; the text names the key.
    """
    limit = positions(model)
    if limit is not None and set(pending) - {"benchmark", "report"} and recipe.data.max_length > limit:
        raise PipelineError(
            f"data.max_length is {recipe.data.max_length}{_default(recipe.data, 'max_length')}, but the {who} "
            f"({source}) reads at most {limit} tokens: set it to {limit} or less. Longer texts are then cut"
        )
    if "benchmark" in pending:
        _check_benchmark(recipe, who, source, model)


def check_mask_token(stage: str, source: str, tokenizer: Any) -> int:
    """The id of the mask token, which ``mask_tokens`` needs.

    Raises:
        PipelineError: the tokenizer has none.
    """
    if tokenizer.mask_token_id is None:
        raise PipelineError(f"{stage}.mask_tokens: the tokenizer of {source} has no mask token; set it to 0")
    return tokenizer.mask_token_id


def _check_benchmark(recipe: Recipe, who: str, source: str, model: nn.Module) -> None:
    settings, longest = recipe.benchmark, max(recipe.benchmark.grid_tokens, default=0)
    # The benchmark keeps to the declared number, whatever kind of positions a model has.
    limit = min((n for n in (positions(model), _declared(model)) if n is not None), default=None)
    for key, verb, asked in (("tokens", "is", settings.tokens), ("grid_tokens", "holds", longest)):
        if limit is not None and asked > limit:
            raise PipelineError(
                f"benchmark.{key} {verb} {asked}{_default(settings, key)}, but the {who} ({source}) reads at most "
                f"{limit} tokens: give {limit} or less"
            )
    memory, width = machine_memory(), _widest(model)
    cases = {"batch and tokens": (settings.batch, settings.tokens)}
    cases["grid_batches and grid_tokens"] = (max(settings.grid_batches, default=0), longest)
    for keys, (batch, tokens) in cases.items():
        needed = batch * tokens * width * _FLOAT
        if memory is not None and needed > memory:
            raise PipelineError(
                f"benchmark, {keys}: {batch:,} sentences of {tokens:,} tokens need {needed / 1e9:,.1f} GB for "
                f"one layer of the {who} alone ({batch:,} x {tokens:,} x {width:,} numbers of {_FLOAT} "
                f"bytes), but this machine has {memory / 1e9:,.1f} GB: give fewer sentences or tokens"
            )


def _declared(model: nn.Module) -> int | None:
    """The number of positions in a model's configuration; XLNet has -1 there, for no limit."""
    number = getattr(model.config, "max_position_embeddings", None)
    return number if isinstance(number, int) and number > 0 else None


def _default(settings: Any, key: str) -> str:
    return "" if key in settings.model_fields_set else " (its default)"


def _position_tables(model: nn.Module) -> list[nn.Embedding]:
    named = (item for item in model.named_modules() if isinstance(item[1], nn.Embedding))
    return [module for name, module in named if name.rpartition(".")[2] in _TABLES]


def _unused_rows(table: nn.Embedding) -> int:
    """Rows in front of the first position: RoBERTa counts from behind its padding id, BART from 2."""
    return table.padding_idx + 1 if table.padding_idx is not None else getattr(table, "offset", 0)


def _widest(model: nn.Module) -> int:
    """The most numbers that a layer gives for one token: at least this much memory is needed at once."""
    linears = (m for m in model.modules() if isinstance(m, nn.Linear) or hf.is_conv1d(m))
    return max((m.weight.shape[1 if hf.is_conv1d(m) else 0] for m in linears), default=1)
