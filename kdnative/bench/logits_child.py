"""One process of the logits suite: a loss of large heads, or a training, and its own sizes as JSON.

``python -m kdnative.bench.logits_child JOB``; the job is JSON with ``kind`` (``"step"`` or ``"train"``), ``large``
(as in `kdnative.distill.LossTerms`), ``tokens``, ``width``, ``vocabulary``, ``threads`` and, to train, ``steps``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.memory_child import sizes
from kdnative.distill import DistillationLoss, LossTerms, Outputs, SoftLabelLoss, TrainConfig, train
from kdnative.distill.loop import TrainingBatch

__all__ = ["CausalLM", "TokenBatches", "loss_of_heads", "main"]

SEQUENCE = 128  # tokens of a text in a training


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Does the job: ``before`` and ``peak``, resident bytes before it and the most of the process, and ``losses``.

    A step has ``gradients`` too: bytes of the gradients of parameters and hidden states, which its peak contains.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    return _step(job) if job["kind"] == "step" else _train(job)


def loss_of_heads(
    large: int | None, tokens: int, width: int, vocabulary: int, dtype: torch.dtype, device: str
) -> tuple[LossTerms, Outputs, Outputs]:
    """Soft labels of one teacher, and what student and teacher say: hidden states and heads, of random numbers."""
    student, teacher = (nn.Linear(width, vocabulary, bias=False, dtype=dtype, device=device) for _ in range(2))
    ours, theirs = (torch.randn(tokens, width, dtype=dtype, device=device) for _ in range(2))
    said = Outputs(hidden=theirs, head=teacher, gradients=False)
    return LossTerms([SoftLabelLoss(2.0)], large), Outputs(hidden=ours.requires_grad_(), head=student), said


class CausalLM(nn.Module):
    """Embeddings, one layer with causal attention, and a head."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        mask = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1])
        return SimpleNamespace(logits=self.head(self.layer(self.embedding(input_ids), mask, is_causal=True)))


@dataclass
class _Batch:
    inputs: dict[str, Tensor]
    labels: Tensor
    index: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        return _Batch({"input_ids": self.inputs["input_ids"].to(device)}, self.labels.to(device), self.index)


@dataclass
class TokenBatches:
    """Random texts whose labels are the next tokens; the last token of a text has none."""

    steps: int
    tokens: int
    vocabulary: int
    fingerprint: str = "random"

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[TrainingBatch]:
        for step in range(start, self.steps):
            generator = torch.Generator().manual_seed(step)
            shape = (max(self.tokens // SEQUENCE, 1), min(self.tokens, SEQUENCE))
            ids = torch.randint(self.vocabulary, shape, generator=generator)
            yield _Batch({"input_ids": ids}, torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100), torch.arange(1))


def _step(job: dict[str, Any]) -> dict[str, Any]:
    loss, student, teacher = loss_of_heads(
        job["large"], job["tokens"], job["width"], job["vocabulary"], torch.float32, "cpu"
    )
    batch = SimpleNamespace(inputs={}, labels=None, index=torch.arange(job["tokens"]))
    before = sizes()["resident"]
    value = loss(batch, student, [teacher])
    value.backward()
    gradients = sum(x.grad.nbytes for x in (student.head.weight, student.hidden) if x.grad is not None)
    return {"before": before, "peak": sizes()["peak"], "gradients": gradients, "losses": [float(value.detach())]}


def _train(job: dict[str, Any]) -> dict[str, Any]:
    student, teacher = (CausalLM(job["vocabulary"], width) for width in (job["width"], 2 * job["width"]))
    batches = TokenBatches(job["steps"], job["tokens"], job["vocabulary"])
    config = TrainConfig(2, 1e-3, device="cpu", precision="fp32")
    before = sizes()["resident"]
    history = train(student, batches, DistillationLoss(large=job["large"]), config, teachers=[teacher])
    losses = [entry[name] for entry in history.epochs for name in ("soft", "hard")]
    return {"before": before, "peak": sizes()["peak"], "losses": losses}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
