"""A classifier small enough to train in milliseconds, and data that it can learn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from kdnative.data import Dataset, Example, TokenizedDataset

VOCABULARY = 32


class Tiny(nn.Module):
    """Mean of embeddings, dropout, two layers; speaks the dialect of Hugging Face classifiers."""

    def __init__(self, width: int = 8, classes: int = 2, dropout: float = 0.1):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width, padding_idx=0)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids, attention_mask, output_hidden_states=False):
        first = self.embedding(input_ids)
        second = self.norm(first + torch.tanh(self.hidden(first)))
        weight = attention_mask[..., None].to(second)
        mean = (second * weight).sum(1) / weight.sum(1)
        return SimpleNamespace(
            logits=self.classifier(self.dropout(mean)), hidden_states=(first, second) if output_hidden_states else None
        )


def tokens(n: int = 60, seed: int = 0, labelled: bool = True, name: str = "tiny") -> TokenizedDataset:
    """Random token ids; class 1 where more than half of them are above the middle of the vocabulary."""
    generator = np.random.default_rng(seed)
    rows = [generator.integers(1, VOCABULARY, generator.integers(2, 9)).astype(np.int32) for _ in range(n)]
    labels = np.array([int((row >= VOCABULARY // 2).mean() > 0.5) for row in rows], np.int64)
    examples = [Example({"text": " ".join(map(str, r)), "label": int(y) if labelled else None}, str(i)) for i, (r, y) in
                enumerate(zip(rows, labels, strict=True))]  # fmt: skip
    source = Dataset(examples, ("low", "high") if labelled else (), name)
    offsets = np.concatenate(([0], np.cumsum([len(r) for r in rows]))).astype(np.int64)
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return TokenizedDataset(flat, offsets, labels if labelled else None, 0, source)


def batch(labels=None, **inputs) -> SimpleNamespace:
    """What a loss term reads of a batch."""
    return SimpleNamespace(inputs=inputs, labels=labels, index=torch.arange(0 if labels is None else len(labels)))


def model(seed: int = 0, **options) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(**options)
