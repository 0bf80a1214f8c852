"""``kdnative bench model STUDENT --peers``: a student on native kernels beside the same student in every other engine.

A native student is faster than its teacher for two reasons: it is a smaller model, and it runs on native kernels. All
models run interleaved, so both factors come from one run, and the second one is against the fastest other engine.

The result, as JSON: ``{"suite": "model_peers", "environment", "versions", "student", "teacher", "scheme", "cases",
"not_run"}``. A case has ``batch``, ``tokens``, ``threads``, ``cores`` and ``rows``, see `kdnative.bench.results`; the
row of the teacher has ``"teacher": true`` and is no peer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.encoder_candidates import COMPILED, OPENVINO_FP32, PEERS, each_batch, torch_call
from kdnative.bench.encoder_cases import Encoder, EncoderCase, Shape
from kdnative.bench.encoder_checks import checks
from kdnative.bench.encoder_models import converted
from kdnative.bench.peers import Candidate, Check, left_out, prepare_all, quiet, split_by_installed, versions
from kdnative.bench.results import (
    LEGEND,
    Row,
    against_peers,
    cores_line,
    faster,
    median,
    not_run_lines,
    quantiles,
    start_line,
    timed_row,
)
from kdnative.bench.steady import SteadyCores, int8_speed
from kdnative.machine.environment import environment
from kdnative.machine.latency import example_inputs
from kdnative.machine.speedup import factors
from kdnative.machine.timer import interleave, torch_threads

_TEACHER = "teacher, torch fp32"
_SAMPLES = 300  # texts to calibrate with
_FLOAT = "float"  # among schemes: layers that stay as they are


@dataclass
class Student:
    """What is compared.

    Attributes:
        name: of the run or folder.
        float_model: in fp32, that every other engine gets.
        native: on native kernels.
        scheme: of the native one; several with commas, as ``"w8a8, w4a8-g64, float"``.
        teacher: in fp32, and its name; None without one.
        samples: inputs of real texts, one text each.
    """

    name: str
    float_model: nn.Module
    native: nn.Module
    scheme: str
    teacher: tuple[str, nn.Module] | None
    samples: Sequence[dict[str, Tensor]]


def of_run(folder: Path) -> Student:
    """The student of a finished run, the float model that it was converted from, and its teacher.

    Raises:
        ValueError: the run has no native student yet.
    """
    import kdnative
    from kdnative.pipeline.models import load_tokenizer
    from kdnative.pipeline.recipe import load_recipe
    from kdnative.quantize import finish_qat_
    from kdnative.tasks import text_task

    recipe = load_recipe(folder / "recipe.yaml")
    teacher = next(s.name for s in recipe.active_stages() if s.row is not None and s.row.key == "teacher")
    stages = {"teacher": teacher, "float": recipe.student_before("convert"), "native": "convert"}
    models = {}
    for what, stage in stages.items():
        path = folder / "stages" / stage / "model"
        if not path.is_dir():
            raise ValueError(f"{path} is missing: finish the run with kdnative run --resume, then measure its student")
        models[what] = kdnative.load(path).eval()
    finish_qat_(models["float"])
    task = text_task(recipe.task)
    data = task.load(**recipe.data.model_dump(exclude={"max_length", "images"}))
    words = load_tokenizer(recipe.student_source)
    encoded = task.encode(data.train.head(_SAMPLES), words, recipe.data.max_length)
    samples = [dict(encoded.batch([i]).inputs) for i in range(min(_SAMPLES, len(encoded)))]
    schemes = recipe.final_schemes()
    scheme = schemes if isinstance(schemes, str) else ", ".join(dict.fromkeys(s or _FLOAT for s in schemes.values()))
    return Student(
        folder.resolve().name, models["float"], models["native"], scheme, ("teacher", models["teacher"]), samples
    )


def of_folder(source: str, scheme: str, teacher: str | None, texts: str) -> Student:
    """A model of Hugging Face and its conversion to one scheme.

    Args:
        source: a folder, ``package:NAME`` or ``hub:NAME``.
        scheme: to convert to.
        teacher: the same, or None.
        texts: data to calibrate with, as in a recipe.
    """
    from kdnative.bench.accuracy import sentences
    from kdnative.pipeline.models import load_any

    model, tokenizer = load_any(source)
    if tokenizer is None:
        raise ValueError(f"{source} has no tokenizer: it is needed for the texts that engines are calibrated with")
    samples = [
        dict(tokenizer(text, truncation=True, max_length=128, return_tensors="pt"))
        for text in sentences(texts, _SAMPLES)
    ]
    model = model.eval()
    above = None if teacher is None else (Path(teacher).name or teacher, load_any(teacher)[0].eval())
    return Student(Path(source).name or source, model, converted(model, scheme), scheme, above, samples)


def run(
    student: Student,
    cases: Sequence[tuple[int, int]],
    *,
    threads: int = 1,
    rounds: int = 15,
    compiled: bool = False,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures the student in every engine.

    Args:
        student: see :func:`of_run` and :func:`of_folder`.
        cases: (batch, tokens); the tokens are of real texts, without padding.
        threads: of every engine.
        rounds: samples of each.
        compiled: with torch.compile too.
        show: called with each line of the report.

    Returns:
        The result, see the head of this module.
    """
    encoder = Encoder(student.float_model, threads, _output(student), _with_types(student))
    ready, absent = split_by_installed([*_ours(student), *PEERS, OPENVINO_FP32, *(COMPILED if compiled else [])])
    if not compiled:
        absent += left_out(COMPILED, "--compile")
    result: dict[str, Any] = {
        "suite": "model_peers",
        "environment": environment(threads),
        "versions": versions(ready),
        "student": student.name,
        "teacher": student.teacher[0] if student.teacher else None,
        "scheme": student.scheme,
        "cases": [],
        "not_run": [{**row, "case": "all"} for row in absent],
    }
    show(start_line(result["environment"]))
    with torch_threads(threads), torch.inference_mode(), quiet():
        cores = SteadyCores(int8_speed(threads))
        for batch, tokens in cases:
            case = EncoderCase(encoder, Shape(batch, tokens), given=_packed(encoder, batch, tokens))
            rows, failed = _run_case(ready, case, rounds, cores)
            entry = {"batch": batch, "tokens": tokens, "threads": threads, "cores": cores.counts(), "rows": rows}
            result["cases"].append(entry)
            result["not_run"] += [{**row, "case": f"{batch}x{tokens}"} for row in failed]
            show(_table(entry))
    for line in [LEGEND, *not_run_lines(result["not_run"]), *cores_line(result["cases"])]:
        show(line)
    return result


def _run_case(
    ready: Sequence[Candidate[EncoderCase]], case: EncoderCase, rounds: int, cores: SteadyCores
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    of_engines = checks(case)

    def check(candidate: Candidate[EncoderCase]) -> Check:
        if candidate.name == _TEACHER:  # another model: it is timed, and no engine
            made = candidate.prepare(case)
            return Check(made.decode(made.call()), 0.01)
        return of_engines(candidate)

    prepared, errors, failed = prepare_all(ready, case, case.reference, check)
    timings = interleave({name: p.call for name, p in prepared.items()}, rounds=rounds, round_seconds=0.02, cores=cores)
    rows = []
    for candidate in ready:
        if candidate.name in timings:
            row = timed_row(candidate, timings[candidate.name], errors[candidate.name])
            rows.append({**row, "peer_of": [], "teacher": True} if candidate.name == _TEACHER else row)
    return rows, failed


def _ours(student: Student) -> list[Candidate[EncoderCase]]:
    """The native student, and the teacher that it is measured against."""

    def of(model: nn.Module) -> Callable[[EncoderCase], Any]:
        return each_batch(lambda encoder, inputs, static: torch_call(model, encoder, inputs))

    quantized = ", ".join(part for part in student.scheme.split(", ") if part != _FLOAT)
    found = [Candidate(f"kdnative {student.scheme}", "int8", of(student.native), ours=True, scheme=quantized)]
    if student.teacher is not None:
        found.append(Candidate(_TEACHER, "float", of(student.teacher[1])))
    return found


def _output(student: Student) -> str:
    with torch.inference_mode():
        found = student.float_model(**example_inputs(student.float_model, 1, 4))
    return "logits" if hasattr(found, "logits") else "last_hidden_state"


def _with_types(student: Student) -> list[dict[str, Tensor]]:
    """The samples with the inputs that the model is exported with, in their order."""
    names = list(example_inputs(student.float_model, 1, 4))
    samples = []
    for sample in student.samples:
        ids = sample["input_ids"]
        usual = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
        samples.append({name: {**usual, **sample}[name].long() for name in names})
    return samples


def _packed(encoder: Encoder, batch: int, tokens: int) -> dict[str, Tensor]:
    """Inputs of that shape without padding, from the texts one after the other."""
    inputs = example_inputs(encoder.model, batch, tokens)
    ids = torch.cat([sample["input_ids"].flatten() for sample in encoder.calibration()])
    repeated = ids.repeat(-(-batch * tokens // len(ids)))[: batch * tokens]
    return {**inputs, "input_ids": repeated.reshape(batch, tokens)}


def gain_lines(rows: Sequence[Row]) -> list[str]:
    """What makes the native student faster than its teacher, as factors."""
    ours = next((row for row in rows if row["ours"]), None)
    found = None if ours is None else against_peers(ours, rows)
    named = {row["name"]: row for row in rows}
    teacher, plain = named.get(_TEACHER), named.get("torch fp32")
    lines = []
    if teacher is not None and plain is not None:
        lines.append(f"smaller model: {faster(teacher, plain)}, teacher over student, both in torch fp32")
    if ours is None or found is None:
        return lines
    best = found.peer
    lines.append(f"native kernels: {found.speedup} the same student in the best other engine, {best['name']}")
    if teacher is not None and plain is not None:
        chain = [teacher, plain, ours] if best is plain else [teacher, plain, best, ours]
        total, _, *engine, _ = factors(*(row["samples"] for row in chain))
        gained = [f", of which {gain} is what the best other engine gains over torch fp32" for gain in engine]
        lines.append(f"native student over the teacher in torch fp32: {total}{''.join(gained)}")
    return lines


def _table(case: Mapping[str, Any]) -> str:
    lines = [
        f"batch x tokens = {case['batch']} x {case['tokens']}, {case['threads']} threads",
        f"  {'':34}{'ms':>10}{'p20':>10}{'p80':>10}{'error':>9}  native student is faster by",
    ]
    ours = next((row for row in case["rows"] if row["ours"]), None)
    for row in sorted(case["rows"], key=median):
        low, middle, high = (1e3 * seconds for seconds in quantiles(row))
        gain = f"  {faster(row, ours)}" if ours is not None and row is not ours else ""
        error = "" if row.get("teacher") else f"{row['error']:.4f}"
        lines.append(f"  {row['name']:34}{middle:>10.3f}{low:>10.3f}{high:>10.3f}{error:>9}{gain}")
    return "\n".join([*lines, *(f"  {line}" for line in gain_lines(case["rows"]))])
