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
    "data": "Where the texts and labels are. Paths are relative to the folder that the command runs in.",
    "teacher": "The model that is fine-tuned on the labels and then teaches.",
    "student": "The small model, which the whole run is about.",
    "train_teacher": "Fine-tunes the teacher on the labels.",
    "compress_teacher": "Converts the teacher to int8, in which it labels the training texts faster.",
    "train_baseline": "Trains the same student on the labels alone: what would be had without the teacher's answers.",
    "distil": "Trains the student on the labels and on the teacher's answers.",
    "calibrate": "Rounds weights by what they are used for; 4 and 2 bits need it: {} takes seconds. w8a8 does without.",
    "recover": "Training in integer arithmetic: for 2 bits. w8a8 costs next to nothing without it.",
    "convert": "Converts the student to native kernels.",
    "benchmark": "The case that the final table times.",
    "goals": "Printed as met or missed with the measured figure. A missed goal is a result, not a failure.",
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
