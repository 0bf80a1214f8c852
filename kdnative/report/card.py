"""The student of a run as users get it: how it is called, and its model card."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from kdnative.report import words
from kdnative.report.read import Run

__all__ = ["EXAMPLE", "card", "closing", "snippets"]

EXAMPLE = "example.png"
"""A test picture beside a student of pictures, for the command and the code of the card."""

_PIPELINES = {"text": "text-classification", "pair": "text-classification", "picture": "image-classification"}
_AUTO = {"text": "AutoModelForSequenceClassification", "picture": "AutoModelForImageClassification"}
_TEXT, _PAIR = "Write a text here.", "Write the second text here."


def _inputs(task: str) -> str:
    """What a task is about: "text", "pair" or "picture"."""
    return "picture" if task.startswith("image-") else "pair" if task.startswith("sentence-pair-") else "text"


def command(folder: Path, task: str) -> str:
    """The line that predicts one example."""
    what = _inputs(task)
    example = {
        "picture": [shlex.quote(str(folder / EXAMPLE))],
        "text": [shlex.quote(_TEXT)],
        "pair": [shlex.quote(_TEXT), "--text-pair", shlex.quote(_PAIR)],
    }
    return " ".join(["kdnative predict", shlex.quote(str(folder)), *example[what]])


def snippets(folder: Path, task: str) -> dict[str, str]:
    """Three ways to use a student from Python, by heading; each runs as it stands."""
    what, name = _inputs(task), json.dumps(str(folder))
    numbers = task.endswith("-regression")
    option = ', function_to_apply="none"' if numbers else ""
    example = {
        "text": json.dumps(_TEXT),
        "pair": json.dumps({"text": _TEXT, "text_pair": _PAIR}),
        "picture": json.dumps(str(folder / EXAMPLE)),
    }[what]
    call = [
        "import kdnative.transformers  # registers the student with transformers",
        "from transformers import pipeline",
        f'print(pipeline("{_PIPELINES[what]}", model={name})({example}{option}))',
    ]
    texts = f"{json.dumps(_TEXT)}, {json.dumps(_PAIR)}" if what == "pair" else json.dumps(_TEXT)
    answer = "logits" if numbers else "logits.softmax(-1)"
    tokens = f'**tokenizer({texts}, truncation=True, return_tensors="pt")'
    if what == "picture":
        own = ["import kdnative as kd", "import torch", "", f"model = kd.load({name})", "with torch.inference_mode():"]
        own += [f"    print(model.classes, model(model.preprocess({example})).softmax(-1))"]
        auto = ["from transformers import AutoImageProcessor, AutoModelForImageClassification", ""]
        auto += [f"model = AutoModelForImageClassification.from_pretrained({name})"]
        auto += [f"processor = AutoImageProcessor.from_pretrained({name})"]
        auto += [f'inputs = processor(Image.open({example}), return_tensors="pt")']
        auto = ["from PIL import Image", *auto]
        inputs = "**inputs"
    else:
        own = ["import kdnative as kd", "import torch", "from transformers import AutoTokenizer", ""]
        own += [f"model, tokenizer = kd.load({name}), AutoTokenizer.from_pretrained({name})"]
        own += ["with torch.inference_mode():", f"    print(model.config.id2label, model({tokens}).{answer})"]
        auto = ["from transformers import AutoModelForSequenceClassification, AutoTokenizer", ""]
        auto += [f"model = AutoModelForSequenceClassification.from_pretrained({name})"]
        auto += [f"tokenizer = AutoTokenizer.from_pretrained({name})"]
        inputs = tokens
    auto = ["import kdnative.transformers", "import torch", *auto]
    auto += ["with torch.inference_mode():", f"    print(model({inputs}).{answer})"]
    made = {"A pipeline of transformers": call, "kdnative alone": own, "The auto classes of transformers": auto}
    return {heading: "\n".join(lines) for heading, lines in made.items()}


def closing(folder: Path, task: str) -> str:
    """What a run prints last: where the student is, a command and three lines of Python."""
    python = snippets(folder, task)["A pipeline of transformers"].splitlines()
    return "\n".join([f"student: {folder}", f"  {command(folder, task)}", "or in Python:", *(f"  {x}" for x in python)])


def card(run: Run, folder: Path) -> str:
    """The model card: README.md of the student's folder, as the hub reads it."""
    summary = run.summary
    task, data, base = summary["task"]["name"], summary["data"], summary.get("base", {})
    deciding, rows = run.measures[0], {row["key"]: row for row in summary["rows"]}
    native, teacher = rows["native"], rows["teacher"]
    return "\n".join(
        [
            *_front_matter(task, base, deciding["name"]),
            f"# {run.name}",
            "",
            f"A student for {task.replace('-', ' ')}, distilled from `{base.get('source', 'its teacher')}` and stored "
            "in integers. It runs on the native CPU kernels of kdnative.",
            "",
            *_quality(rows, deciding),
            "",
            "## Size and speed",
            "",
            f"- {words.megabytes(native['bytes'])} MB; the teacher has {words.megabytes(teacher['bytes'])} MB.",
            *_speed(run, native, teacher),
            "",
            "## Use",
            "",
            'Install kdnative with `pip install "kdnative[pipeline]"`'
            + (' and `"kdnative[vision]"`.' if _inputs(task) == "picture" else "."),
            "",
            "From the command line:",
            "",
            f"```sh\n{command(folder, task)}\n```",
            *(line for head, code in snippets(folder, task).items() for line in ("", f"{head}:", "", _python(code))),
            "",
            "Without `import kdnative.transformers`, transformers reads the folder with `trust_remote_code=True`.",
            "",
            "## Training",
            "",
            *_training(data, base),
            "",
            "<details><summary>The recipe with every default</summary>",
            "",
            f"```yaml\n{run.recipe.strip()}\n```",
            "",
            "</details>",
            "",
        ]
    ).replace("\n\n\n", "\n\n")


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _front_matter(task: str, base: dict[str, Any], measure: str) -> list[str]:
    lines = ["---", "library_name: transformers", f"pipeline_tag: {_PIPELINES[_inputs(task)]}"]
    lines += [f"license: {base['license']}"] if base.get("license") else []
    lines += [f"base_model: {base['name']}"] if base.get("name") else []
    return [*lines, "tags:", "- kdnative", "- distillation", "- quantized", f"metrics:\n- {measure}", "---", ""]


def _quality(rows: dict[str, Any], deciding: Any) -> list[str]:
    """The deciding measure of teacher, hard labels alone and the student, with intervals."""
    name, percent = deciding["name"], deciding["percent"]
    lines = [f"## Quality\n\n| model | {name} [95 %] | against the teacher [95 %] |", "| --- | --- | --- |"]
    names = {"teacher": "teacher", "baseline": "student of this shape, hard labels only", "native": "this student"}
    for key, text in names.items():
        if key not in rows:
            continue
        row = rows[key]
        against = "" if key == "teacher" else words.change(row.get("difference"), percent, " points")
        lines.append(f"| {text} | {words.estimate(row.get(deciding['key']), percent)} | {against} |")
    kept = rows["native"].get("kept")
    share = f" The student keeps {words.percent(kept['value'])} of the teacher's {name}." if kept else ""
    return [*lines, "", f"Measured on the test split, which no stage was trained on. Differences are paired.{share}"]


def _speed(run: Run, native: Any, teacher: Any) -> list[str]:
    case, machine = run.summary.get("case"), run.info.get("machine", {})
    if case is None or "native" not in native.get("latency", {}):
        return []
    mine, theirs = native["latency"]["native"]["p50"], teacher["latency"]["fp32"]["p50"]
    isa = machine.get("native", {}).get("isa", "")
    where = f"{machine.get('cpu', 'this machine')}, {machine.get('cores', '?')} cores, {isa}".rstrip(", ")
    return [
        f"- {words.milliseconds(mine)} ms at {words.case(case)}; the teacher takes {words.milliseconds(theirs)} ms in "
        f"torch fp32, {words.speedup(native['speedup'])} as long.",
        f"- Machine: {where}.",
    ]


def _training(data: dict[str, Any], base: dict[str, Any]) -> list[str]:
    sizes, things = data["sizes"], data.get("things", "texts")
    licence = f", licence {base['license']}" if base.get("license") else ", whose licence is not known here"
    labels = ", ".join(f"`{label}`" for label in data.get("labels", ())[:50])
    return [
        f"- Base model: `{base.get('name') or base.get('source', 'unknown')}`{licence}.",
        f"- Data: `{data['source']}`: {sizes['labelled']:,} {things} with a label and {sizes['unlabelled']:,} without "
        f"for training, {sizes['validation']:,} for validation, {sizes['test']:,} for the test.",
        *([f"- Classes: {labels}."] if labels else []),
    ]
