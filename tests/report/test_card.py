"""The card's code and command run as they stand, for each task."""

import contextlib
import io
import re

import pytest

pytest.importorskip("transformers")

import kdnative as kd  # noqa: E402
from kdnative.report.card import EXAMPLE, closing, snippets  # noqa: E402
from kdnative.tasks import TASKS  # noqa: E402
from tests.small_models import bert  # noqa: E402
from tests.transformers import students  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("a folder with 'quotes'")
    made = {
        "text-classification": students.full(),
        "text-regression": bert(num_labels=1, problem_type="regression"),
        "sentence-pair-classification": bert(**students._labels()),
        "sentence-pair-regression": bert(seed=2, num_labels=1),
        "image-classification": students.mobilenet(),
    }
    for task, model in made.items():
        if type(model).__name__.startswith("Bert") and not any(isinstance(m, kd.nn.Encoder) for m in model.modules()):
            kd.convert_(model, "w8a8")
        kd.save(model, place / task, tokenizer=None if "image" in task else students.tokenizer())
    students.picture(2).save(place / "image-classification" / EXAMPLE)
    return place


def printed(code):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "card", "exec"), {})
    return out.getvalue()


def numbers(text):
    return sorted(round(float(n), 3) for n in re.findall(r"\d\.\d+(?:e-?\d+)?|-\d\.\d+", text))


@pytest.mark.parametrize("task", TASKS)
def test_every_way_to_load_gives_the_same(folders, task):
    outputs = {name: printed(code) for name, code in snippets(folders / task, task).items()}
    assert len(outputs) == 3
    pipeline, own, auto = map(numbers, outputs.values())
    assert own == auto and len(own) == (1 if "regression" in task else 3)
    assert pipeline and all(any(abs(n - m) < 2e-3 for m in own) for n in pipeline), outputs


@pytest.mark.parametrize("task", TASKS)
def test_a_run_ends_with_what_works(folders, task, capsys):
    import shlex

    from kdnative.cli import main

    first, command, _, *python = closing(folders / task, task).splitlines()
    assert first == f"student: {folders / task}" and len(python) == 3
    assert printed("\n".join(line.removeprefix("  ") for line in python))
    program, *arguments = shlex.split(command)
    assert program == "kdnative" and main(arguments) == 0
    assert capsys.readouterr().out.strip()
