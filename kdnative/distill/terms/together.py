"""The weighted sum of terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm
from kdnative.distill.terms.without_logits import LARGE, label_terms

__all__ = ["LossTerms"]


class LossTerms(nn.Module):
    """The weighted sum of terms: ``sum_i weight_i * term_i``, in the order given.

    Args:
        terms: those of weight 0 are left out.
        large: from so many classes on a `SoftLabelLoss`, and a `HardLabelLoss` without weights of classes or smoothing,
            are computed together and without logits (`linear_kl`), where no other term reads logits and student and
            teachers run up to their heads. The same up to rounding; None: never.

    Attributes:
        terms: the terms that are computed. labels: those of them that logits need not be made for, or None.
        parts: the unweighted terms of the last call by name, detached, as far as they said something.

    Raises:
        ValueError: two terms of one name or a name of the history's own, or no term with a weight.
    """

    def __init__(self, terms: Iterable[LossTerm], large: int | None = LARGE):
        super().__init__()
        terms = list(terms)
        for term in terms:
            if not isinstance(term, LossTerm):
                raise TypeError(f"{type(term).__name__} is not a loss term: inherit from kdnative.distill.LossTerm")
        if not any(term.weight for term in terms):
            raise ValueError("all loss terms have weight 0: set at least one weight above 0")
        names = [term.name for term in terms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two loss terms are named {twice!r}: give one of them another name=")
        if taken := [name for name in names if name in ("loss", "epoch", "step")]:
            raise ValueError(
                f"a loss term is named {taken[0]!r}, which the history already uses: give it another name="
            )
        if large is not None and large < 1:
            raise ValueError(f"large={large}: a number of classes, at least 1, or None")
        self.terms = nn.ModuleList(term for term in terms if term.weight)
        self.large, self.labels = large, label_terms(self.terms)
        self.parts: dict[str, Tensor] = {}

    @property
    def needs(self) -> frozenset[str]:
        """What the terms read of the student, together."""
        return frozenset().union(*(term.needs for term in self.terms))

    def teacher_needs(self, teacher: int) -> frozenset[str]:
        """What the terms read of one teacher, together."""
        return frozenset().union(*(term.teacher_needs for term in self.terms if term.asks(teacher)))

    def settings(self) -> dict[str, Any]:
        """Those of the terms, as "name.key"."""
        found = {f"{term.name}.{key}": value for term in self.terms for key, value in term.settings().items()}
        return {"terms": [f"{type(term).__name__} {term.name}" for term in self.terms], **found}

    def shares(self, batches: Sequence[Any]) -> list[dict[str, float]]:
        """For each batch of one step, the share that it has in every term, by the terms' names.

        They sum up to 1; to 0 for a term that has nothing to count in any of the batches.
        """
        found: list[dict[str, float]] = [{} for _ in batches]
        for term in self.terms:
            counts = [term.count(batch) for batch in batches]
            total = sum(counts) or 1.0
            for shares, count in zip(found, counts, strict=True):
                shares[term.name] = count / total
        return found

    def forward(
        self, batch: Any, student: Outputs, teachers: Sequence[Outputs] = (), shares: Mapping[str, float] | None = None
    ) -> Tensor:
        """The loss, a scalar (arguments as those of a term).

        Args:
            shares: by which to multiply the terms besides their weights, by their names; None: by nothing.

        Raises:
            ValueError: no term says anything about this batch.
        """
        factors = {term.name: term.weight * (1.0 if shares is None else shares[term.name]) for term in self.terms}
        labels = self.labels
        if labels is None or self.large is None or not labels.apply(student, teachers, self.large):
            together, parts, alone = None, {}, list(self.terms)
        else:
            together, parts = labels(batch, student, teachers, factors)
            alone = [term for term in self.terms if term not in labels.terms]
        values = {term.name: term(batch, student, teachers) for term in alone}
        said = {name: value for name, value in values.items() if value is not None}
        if together is None and not said:
            names = ", ".join(term.name for term in self.terms)
            raise ValueError(f"no term of the loss ({names}) applies to this batch: check that the batch has labels")
        parts = {**parts, **{name: value.detach() for name, value in said.items()}}
        self.parts = {term.name: parts[term.name] for term in self.terms if term.name in parts}
        total = sum(factors[name] * value for name, value in said.items())
        return total if together is None else together + total
