"""A small random BERT, and the rows of a conversion report by name."""

import pytest
import torch


def bert(seed=0, kind="BertForSequenceClassification", **changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    settings = {**sizes, "vocab_size": 200, "max_position_embeddings": 64, "num_labels": 3, **changes}
    torch.manual_seed(seed)
    return getattr(transformers, kind)(transformers.BertConfig(**settings)).eval()


def rows(report):
    return {row.name: row for row in report.rows}
