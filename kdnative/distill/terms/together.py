"""The weighted sum of terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm

__all__ = ["LossTerms"]


class LossTerms(nn.Module):
    """The weighted sum of terms: ``sum_i weight_i * term_i``, in the order given.

    Args:
        terms: those of weight 0 are left out.

    Attributes:
        terms: the terms that are computed.
        parts: the unweighted terms of the last call by name, detached, as far as they said something.

    Raises:
        ValueError: two terms of one name or a name of the history's own, or no term with a weight.
    """

    def __init__(self, terms: Iterable[LossTerm]):
        super().__init__()
        terms = list(terms)
        for term in terms:
            if not isinstance(term, LossTerm):
                raise TypeError(f"{type(term).__name__} is no loss term: inherit kdnative.distill.LossTerm")
        if not any(term.weight for term in terms):
            raise ValueError("no term of the loss has a weight above 0: there is nothing to learn from")
        names = [term.name for term in terms]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two loss terms are called {twice!r}: give one of them another name=")
        if taken := [name for name in names if name in ("loss", "epoch", "step")]:
            raise ValueError(f"a loss term is called {taken[0]!r}, as the history calls something else: name= another")
        self.terms = nn.ModuleList(term for term in terms if term.weight)
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
        values = [(term, term(batch, student, teachers)) for term in self.terms]
        said = [(term, value) for term, value in values if value is not None]
        if not said:
            names = ", ".join(term.name for term in self.terms)
            raise ValueError(f"no term of the loss ({names}) says anything about this batch: were no labels given?")
        self.parts = {term.name: value.detach() for term, value in said}
        factors = [term.weight * (1.0 if shares is None else shares[term.name]) for term, _ in said]
        return sum(factor * value for factor, (_, value) in zip(factors, said, strict=True))
