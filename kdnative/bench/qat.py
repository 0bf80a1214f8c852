"""``kdnative bench qat``: what quantization-aware training adds to calibration, beside the float model trained as long.

A classifier, fine-tuned on all movie sentences with a label, is calibrated with GPTQ at 2 and 4 bits and with ternary
codes, and trained for some epochs from there, learning from its own soft labels and the labels of its training texts.
The divergence from the classifier on one half of validation stops the training and chooses its epoch. Everything is
measured on the native model, on texts that chose nothing, the other half and test: the divergence in nats, agreement of
classes, accuracy; each with its 95 % interval over texts, and against the float model that was trained as long. With
``--heads`` and ``--neurons`` the classifier is the teacher of a smaller student, distilled for an epoch first: the
student takes its place in every row, and the divergence is still that from the classifier. The forward of the training
on native outputs is compared with the converted model, bit for bit.

The result, as JSON: ``{"suite": "qat", "environment", "model", "data", "student", "epochs", "seed", "texts",
"stopping_texts", "training_texts", "same_bits": {"texts", "equal"}, "rows", "goals"}``; ``student`` has its ``heads``
and ``neurons``, or is None. A row has ``name``, ``scheme`` (None: fp32), ``trained``, ``seconds``, ``epochs``,
``best``, ``figures`` and ``against`` (both ``{name: [value, low, high]}``, the second the difference to the float model
trained as long; None without that row).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdnative.bench.options import add_output, add_threads, names, numbers, positive
from kdnative.bench.qat_ways import BATCH, FLOAT_TRAINED, HEAD, TWO, WAYS, Material, Sizes, Way
from kdnative.bench.quality_classifier import DATA, MAX_TOKENS, TASK, classifier, splits
from kdnative.bench.quality_figures import Bootstrap, Losses, classifier_losses
from kdnative.bench.quality_texts import stopping_and_measuring
from kdnative.bench.results import goal, goal_line, start_line
from kdnative.convert import convert_, native_forward
from kdnative.data import Batches, Dataset, TokenizedDataset
from kdnative.distill import SoftLabels
from kdnative.evaluate import Interval, Predictions, predict
from kdnative.machine.environment import environment, write_result
from kdnative.machine.timer import torch_threads
from kdnative.pipeline.models import load_for_task, load_tokenizer
from kdnative.quantize import prepare_qat_
from kdnative.tasks import text_task

MODEL = "package:minilm-l6"
CALIBRATION = 128
SAME_BITS = 1000
MOST_MORE, MOST_MORE_TERNARY = 0.015, 0.02  # nats that training may leave, against fp32 trained as long
MOST_POINTS = 0.01


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Quantization-aware training beside calibration and the float model trained as long."
    parser = argparse.ArgumentParser(prog="kdnative bench qat", description=text, allow_abbrev=False)
    parser.add_argument("--model", default=MODEL, help=f"encoder to fine-tune first (default: {MODEL})")
    parser.add_argument("--classifier", metavar="FOLDER", help="fine-tuned classifier with tokenizer, instead")
    parser.add_argument("--epochs", type=positive, default=1, help="of every training, at most (default: 1)")
    parser.add_argument("--lr", type=float, help="peak learning rate of trainings at 2 bits (default: 2e-4)")
    parser.add_argument("--seed", type=int, default=0, help="of every training (default: 0)")
    parser.add_argument("--limit", type=positive, help="use so many texts of each split, for a quick try")
    parser.add_argument(
        "--ways", type=names, help=f"rows to measure (default: all of {', '.join(w.name for w in WAYS)})"
    )
    parser.add_argument("--heads", type=numbers, help="of each layer of a student, such as 6,4,4,2,2,2")
    parser.add_argument("--neurons", type=numbers, help="of its feed-forward networks, such as 512,512,384,256,128,128")
    add_threads(parser)
    add_output(parser, rounds=None)
    options = parser.parse_args(argv)
    wanted = _chosen(parser, options.ways)
    if (options.heads is None) != (options.neurons is None):
        parser.error("--heads and --neurons are given together: they are the sizes of one student")
    if options.lr is not None:
        wanted = [replace(way, lr=options.lr) if way.lr and way.scheme == TWO else way for way in wanted]
    folder = Path(options.classifier) if options.classifier else classifier(options.model, print)
    with torch_threads(options.threads):
        result = run(
            folder,
            wanted,
            epochs=options.epochs,
            seed=options.seed,
            limit=options.limit,
            sizes=None if options.heads is None else Sizes(options.heads, options.neurons),
            threads=options.threads,
            show=print,
        )
    # Of a folder the name alone: a result says nothing of where things are on a machine.
    result |= {"model": Path(options.classifier).name if options.classifier else options.model, "data": DATA}
    if options.json:
        write_result(options.json, result)
    return 0


def _chosen(parser: argparse.ArgumentParser, given: Sequence[str] | None) -> list[Way]:
    known = {way.name.replace(",", ""): way for way in WAYS}  # commas part the names of the option
    if unknown := [name for name in given or () if name not in known]:
        parser.error(f"--ways: {unknown[0]!r} is none of {', '.join(known)}")
    return list(WAYS) if given is None else [known[name] for name in given]


def run(
    folder: Path,
    ways: Sequence[Way] = WAYS,
    *,
    epochs: int = 1,
    seed: int = 0,
    limit: int | None = None,
    sizes: Sizes | None = None,
    threads: int = 1,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures the ways.

    Args:
        folder: of a classifier and its tokenizer.
        ways: rows; those of `WAYS`.
        epochs, seed: of every training.
        limit: texts of the training split and of those that measure; None: all.
        sizes: of a student that is made of the classifier and distilled from it; None: the classifier itself.
        threads: of torch, as set by the caller.
        show: called with each line of the report.

    Returns:
        The result, see the head of this module (without ``model`` and ``data``).
    """
    task, data, tokenizer = text_task(TASK), splits(), load_tokenizer(str(folder))
    model = load_for_task(str(folder), task, data.train, fine_tuned=True).eval()

    def encoded(part: Dataset) -> TokenizedDataset:
        few = part if limit is None else Dataset(list(part)[:limit], part.labels, part.name)
        return task.encode(few, tokenizer, MAX_TOKENS)

    where = environment(threads)
    show(start_line(where))
    train, validation, measured = map(encoded, (data.train, *stopping_and_measuring(data)))
    soft_labels = SoftLabels.compute(model, train, batch_size=BATCH, device="cpu", amp="auto")
    exact = predict(model, validation, batch_size=BATCH, device="cpu").logits
    few = Dataset(list(data.train)[:CALIBRATION], data.train.labels, f"{CALIBRATION} of {data.train.name}")
    calibration = [batch.inputs for batch in Batches(encoded(few), BATCH)]
    material = Material(model, train, soft_labels, validation, exact, calibration, epochs, seed)
    if sizes is not None:
        material = replace(material, model=material.student(sizes))
        show(f"a student with {sizes.heads} heads and {sizes.neurons} neurons learned from the classifier for an epoch")
    same = same_bits(model, measured, SAME_BITS)
    show(f"training forward on native outputs equals the converted model: {same['equal']} of {same['texts']} texts")
    rows = _rows(material, ways, measured, predict(model, measured, batch_size=BATCH, device="cpu"), show)
    result: dict[str, Any] = {
        "suite": "qat",
        "environment": where,
        "student": None if sizes is None else asdict(sizes),
        "epochs": epochs,
        "seed": seed,
        "texts": len(measured),
        "stopping_texts": len(validation),
        "training_texts": len(train),
        "same_bits": same,
        "rows": rows,
        "goals": goals(rows),
    }
    for line in result["goals"]:
        show(goal_line(line))
    return result


def _rows(
    material: Material,
    ways: Sequence[Way],
    measured: TokenizedDataset,
    before: Predictions,
    show: Callable[[str], None],
) -> list[dict[str, Any]]:
    assert before.labels is not None
    bootstrap = Bootstrap(len(measured))
    rows: list[dict[str, Any]] = []
    trained: Losses | None = None
    for way in ways:
        made = material.make(way)
        after = predict(made.model, measured, batch_size=BATCH, device="cpu").logits
        found = classifier_losses(before.logits.double(), after.double(), before.labels)
        trained = found if way.name == FLOAT_TRAINED else trained
        against = None if trained is None else {n: bootstrap.difference(trained[n], v) for n, v in found.items()}
        rows.append(
            {
                "name": way.name,
                "scheme": way.scheme,
                "trained": way.lr is not None,
                "seconds": round(made.seconds, 1),
                "epochs": made.history,
                "best": made.best,
                "figures": _plain({name: bootstrap.mean(values) for name, values in found.items()}),
                "against": None if against is None else _plain(against),
            }
        )
        show(_line(rows[-1]))
    return rows


def _plain(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    return {name: [float(f"{v:.5g}") for v in (i.value, i.low, i.high)] for name, i in found.items()}


def _line(row: Mapping[str, Any]) -> str:
    figures = row["figures"]
    kl, low, high = figures["kl"]
    text = f"{row['name']}: KL {kl:.4f} [{low:.4f}, {high:.4f}], agreement {figures['agreement'][0]:.2%}, "
    text += f"accuracy {figures['accuracy'][0]:.2%}"
    if row["against"] is not None and row["scheme"] is not None:
        text += "; against fp32 trained as long KL {:+.4f} [{:+.4f}, {:+.4f}]".format(*row["against"]["kl"])
        points = [100 * v for v in row["against"]["accuracy"]]
        text += ", {:+.2f} points [{:+.2f}, {:+.2f}]".format(*points)
    return f"{text}; {row['seconds']:.0f} s"


def goals(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What training at 2 bits has to reach, and whether it is worth its time at 4."""
    found = []
    kl = {row["name"]: row["figures"]["kl"][0] for row in rows}
    for row in rows:
        if row["scheme"] != TWO or not row["trained"] or row["against"] is None:
            continue
        limit = MOST_MORE_TERNARY if row["name"].startswith("ternary") else MOST_MORE
        against = row["against"]
        found.append(
            goal(f"{row['name']}, KL above fp32 trained as long < {limit}", against["kl"][0], limit, at_least=False)
        )
        text = f"{row['name']}, accuracy against fp32 trained as long >= -1 point"
        found.append(goal(text, against["accuracy"][0], -MOST_POINTS, at_least=True))
    if "w4 GPTQ" in kl and "w4 QAT from GPTQ" in kl:
        text = "w4 QAT, KL below that of GPTQ alone"
        found.append(goal(text, kl["w4 QAT from GPTQ"], kl["w4 GPTQ"], at_least=False))
    return found


def same_bits(model: nn.Module, data: TokenizedDataset, count: int) -> dict[str, int]:
    """On how many texts a training step's logits are those of the converted model, to the bit; steps in between.

    Args:
        model: float; not changed. data: the texts. count: how many of them, at most.
    """
    model = copy.deepcopy(model).train()
    prepare_qat_(model, TWO, keep=[HEAD], clip="learn")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    texts = equal = 0
    with native_forward(model, TWO, keep=[HEAD]):
        for batch in Batches(data, BATCH):
            logits = model(**batch.inputs).logits
            if texts % (8 * BATCH) == 0:  # the weights that follow are new ones
                native = convert_(_without_forward(model), TWO, keep=[HEAD]).model
            with torch.no_grad():
                wanted = native(**batch.inputs).logits
            texts, equal = texts + len(batch), equal + int((logits == wanted).all(-1).sum())
            if texts % (8 * BATCH) == 0:
                logits.square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            if texts >= count:
                break
    return {"texts": texts, "equal": equal}


def _without_forward(model: nn.Module) -> nn.Module:
    """A copy with the forward of its class."""
    twin = copy.deepcopy(model)
    vars(twin).pop("forward", None)
    return twin
