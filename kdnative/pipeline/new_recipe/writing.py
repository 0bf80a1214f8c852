"""A recipe as YAML, with the reason of every line above it."""

from __future__ import annotations

import textwrap

from kdnative.extras import require
from kdnative.pipeline.new_recipe.settings import Settings
from kdnative.shown import printable

__all__ = ["written"]

_WIDTH = 100
# Why a recipe has a section; in the order of the file. The keys of a section follow it.
_SECTIONS = {
    "data": "The texts and labels. Paths are relative to the folder in which the command runs.",
    "teacher": "The large model. It learns from the labels, then labels the training texts for the student.",
    "student": "The small model, which is the result of the run.",
    "train_teacher": "Fine-tunes the teacher on the labels.",
    "compress_teacher": "Converts the teacher to int8, so that it labels the training texts faster.",
    "train_baseline": "Trains the same student on the labels alone, to measure what distillation adds. null skips it.",
    "distil": "Trains the student on the labels and on the teacher's answers.",
    "calibrate": "Calibrates quantized weights on training texts. 4-bit and 2-bit schemes need it: {}. w8a8 does not.",
    "recover": "Trains the student in integer arithmetic. It improves 2-bit schemes; w8a8 does not need it.",
    "convert": "Converts the student to the native kernels.",
    "benchmark": "Batch size and text length for the latencies in the final table.",
    "goals": "Targets, reported as met or missed. A missed goal does not make the run fail.",
}


def written(title: str, settings: Settings) -> str:
    """The text of a recipe.

    Args:
        title: the first comment.
        settings: every key of the recipe, in their order within a section.
    """
    lines = [*_comment(title, ""), ""]
    top = {key: chosen for key, chosen in settings.items() if "." not in key and key not in _SECTIONS}
    for key, chosen in top.items():
        lines += [*_comment(chosen.why, ""), f"{key}: {_value(chosen.value)}"]
    for section, reason in _SECTIONS.items():
        inner = {k.partition(".")[2]: chosen for k, chosen in settings.items() if k.startswith(f"{section}.")}
        if section in settings:  # a section that is left out
            lines += ["", *_comment(reason, ""), f"{section}: {_value(settings[section].value)}"]
        elif inner:
            lines += ["", *_comment(reason, ""), f"{section}:"]
            for key, chosen in inner.items():
                lines += [*_comment(chosen.why, "  "), f"  {key}: {_value(chosen.value)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    """Lines of comment; a reason without a capital letter and a full stop gets both."""
    found = []
    for line in printable(text).split("\n"):
        sentence = line[:1].upper() + line[1:] + ("" if line.endswith((".", ":")) else ".")
        found += textwrap.wrap(sentence, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    return found


def _value(value: object) -> str:
    """A value in one line of YAML."""
    yaml = require("yaml")
    if isinstance(value, float):  # YAML's 1e-05 would be a word without the point
        return repr(value) if "e" not in repr(value) else f"{value:.1e}"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
