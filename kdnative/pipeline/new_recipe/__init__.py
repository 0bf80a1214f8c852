"""`kdnative new`: a commented recipe for a data file, guessed from what is in it."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnative.data import DataError, DataSplits
from kdnative.data.columns import is_missing
from kdnative.data.datasets import files_of
from kdnative.data.sniff import Sheet, read_sheet
from kdnative.data.tables import check_name
from kdnative.files import replace_text
from kdnative.pipeline.folder import PipelineError
from kdnative.pipeline.new_recipe.kinds import Described
from kdnative.pipeline.new_recipe.roles import Roles, find_roles
from kdnative.pipeline.new_recipe.settings import Chosen, Facts, Settings, choose
from kdnative.pipeline.new_recipe.shape import shapes
from kdnative.pipeline.new_recipe.sources import Sources, find_sources
from kdnative.pipeline.new_recipe.task import choose_task
from kdnative.pipeline.new_recipe.teacher import LookedAt, look_at, token_counts
from kdnative.pipeline.new_recipe.writing import written
from kdnative.shown import listed, printable, shown
from kdnative.tasks import Task, text_task

if TYPE_CHECKING:
    from kdnative.pipeline.checking import Checked

__all__ = ["New", "new"]

TEACHER = "package:minilm-l6"
SPLITS = ((0.8, 0.1, 0.1), (0.6, 0.2, 0.2), (0.4, 0.3, 0.3))  # tried in this order, until every part has examples
MEASURED = 2000  # texts whose tokens are counted


@dataclass(frozen=True)
class New:
    """A recipe and how it came about.

    Attributes:
        text: of the recipe.
        guesses: {what: the guess, and why}.
        unsure: sentences about what may be meant otherwise.
        checked: what `kdnative.pipeline.check` found; None where the data was too large to be read as a whole.
    """

    text: str
    guesses: dict[str, str]
    unsure: list[str]
    checked: Checked | None

    def __str__(self) -> str:
        width = max(map(len, self.guesses))
        lines = [f"{what:<{width}}  {guess}" for what, guess in self.guesses.items()]
        if self.unsure:
            lines += ["not sure:", *(f"  - {sentence}" for sentence in self.unsure)]
        return printable("\n".join(lines))


def new(
    data: str | Path,
    out: str | Path = "recipe.yaml",
    *,
    task: str | None = None,
    teacher: str = TEACHER,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
    overwrite: bool = False,
) -> New:
    """Writes a commented recipe for a data file, and checks it as ``kdnative run --check`` does.

    Args:
        data: a .csv, .tsv or .jsonl file, or a folder with ``train`` and perhaps ``validation`` and ``test`` files.
        out: the recipe to write.
        task: of the recipe; None guesses it from the labels.
        teacher: as in recipes. It is not fetched: a teacher that is not on this machine is not looked at.
        text, text_pair, label: names of columns; None guesses them.
        overwrite: whether `out` may be there already.

    Raises:
        DataError: the data can't be used, with the line where there is one. RecipeError, PipelineError: no recipe for
            it can run. ValueError: an unknown task or teacher. FileExistsError: `out` is there.
    """
    if Path(out).exists() and not overwrite:
        raise FileExistsError(f"{out} exists: give another name with --out, or replace it with --overwrite")
    made = guess(Path(data), None if task is None else text_task(task), look_at(teacher), text, text_pair, label)
    replace_text(Path(out), made.text)
    return made


def guess(
    data: Path, task: Task | None, teacher: LookedAt, text: str | None, text_pair: str | None, label: str | None
) -> New:
    """The recipe for a data file, not written yet."""
    train = files_of(data)["train"]
    sheet = read_sheet(train)
    columns = [Described(name, values) for name, values in sheet.columns.items()]
    _check_header(sheet)
    unsure: list[str] = []
    roles = find_roles(columns, str(train), task, text, text_pair, label)
    unsure += roles.unsure
    why_task = "you named it"
    if task is None:
        task, why_task = choose_task(roles.label, roles.text_pair is not None, str(train), unsure)
    sources = find_sources(data, roles.label.name, unsure)
    source = _data_keys(sources, sheet, roles)
    splits = None
    if sheet.complete:
        splits = _splits(source, task, sources.cut, f"{len(roles.label.given):,} rows of {train}", unsure)
    settings = choose(_facts(sheet, roles, task, splits, teacher), teacher, unsure)
    if not task.numbers and _knows(teacher, list(roles.label.counts), unsure):
        settings = {key: chosen for key, chosen in settings.items() if not key.startswith("train_teacher.")}
        settings["teacher.fine_tuned"] = Chosen(True, "its classes match those of the data, so it is not trained again")
        unsure.append(
            f"the head of {teacher.source} has the data's classes, so the model counts as trained for this "
            "task (teacher.fine_tuned: true) and is not trained again; if it was trained for another task, "
            "remove that line"
        )
    for shape in (candidates := shapes(teacher, unsure)):
        everything = _settings(data, source, shape | settings, teacher, task, why_task)
        text_of_recipe = written(_title(data, sheet), everything)
        try:
            checked = _check(text_of_recipe, splits is not None)
            break
        except PipelineError as error:
            if shape is candidates[-1] or not str(error).startswith("student."):
                raise
    if splits is None:
        unsure.append(
            f"only the first {100 * sheet.share:.0f} % of {train} were read; kdnative run --check reads the whole file"
        )
    else:
        unsure += checked.notes
    if sheet.repeated:
        unsure.append(f"more than one column is named {listed(sheet.repeated)}; none of them is used")
    return New(text_of_recipe, _guesses(sheet, roles, task, why_task, everything), unsure, checked)


def _check_header(sheet: Sheet) -> None:
    """Refuses names with an end of a line, and a table whose first row is data: cells are numbers, or long."""
    for name in [*sheet.columns, *sheet.repeated]:
        check_name(sheet.path, name)
    if sheet.path.suffix.lower() == ".jsonl":
        return
    names = [*sheet.columns, *sheet.repeated]
    odd = [name for name in names if re.fullmatch(r"[-+]?\d+(\.\d+)?", name.strip()) or len(name.split()) > 6]
    if odd:
        raise DataError(
            f"{sheet.path}, line 1: {shown(odd[0])} looks like data, not like a column name: add a header "
            "such as text,label above the first row"
        )


def _data_keys(sources: Sources, sheet: Sheet, roles: Roles) -> Settings:
    """The section `data` but for the split and the length of texts."""
    first, second, label = roles.text, roles.text_pair, roles.label
    found = {"data.source": Chosen(str(sources.source), _size(sheet))}
    found |= {f"data.{name}": Chosen(str(file), "a separate file") for name, file in sources.parts.items()}
    if sources.unlabelled:
        why = "texts without labels; the student learns the teacher's answers to them"
        found["data.unlabelled_files"] = Chosen([str(file) for file in sources.unlabelled], why)
    found["data.text"] = Chosen(first.name, roles.why["text"])
    if second is not None:
        found["data.text_pair"] = Chosen(second.name, roles.why["text_pair"])
    found["data.label"] = Chosen(label.name, roles.why["label"])
    if sheet.delimiter is not None:
        found["data.delimiter"] = Chosen(sheet.delimiter, "The column separator.")
    if label.missing:
        why = (
            f"{label.missing:,} of {len(sheet):,} rows have no label; they are used for training, labelled by the "
            "teacher"
        )
        found["data.unlabelled"] = Chosen("keep", why)
    blank = sum(any(is_missing(v) for v in row) for row in zip(*(c.values for c in (first, second) if c), strict=True))
    if blank:
        found["data.empty"] = Chosen("drop", f"{blank:,} rows have no text and are left out")
    return found


def _splits(source: Settings, task: Task, cut: list[str], labelled: str, unsure: list[str]) -> DataSplits:
    """The data as a run would read it; puts the shares of the parts into `source`.

    Args:
        cut: the splits that are cut from the training file.
        labelled: how many rows have a label, for messages.

    Raises:
        DataError: it can't be read, or no shares give every part an example.
    """
    keys = {key.removeprefix("data."): chosen.value for key, chosen in source.items()}
    keys = {"text_pair": None, **keys}
    first: DataError | None = None
    for split in SPLITS if cut else SPLITS[:1]:
        try:
            found = task.load(**keys, split=split)
        except DataError as error:  # of too small a part, or one that no shares can mend: then all say the same
            first = first or error
            continue
        if cut:
            parts = " and ".join(cut)
            why = f"shares of training, validation and test; a hash of the text chooses the {parts} examples"
            source["data.split"] = Chosen(list(split), why)
        if split != SPLITS[0]:
            unsure.append(
                f"the data is small: the test split is {split[2]:.0%} of it, so that every split has examples"
            )
        return found
    raise DataError(f"{first} ({labelled} have a label)" if "split is empty" in str(first) else str(first)) from first


def _facts(sheet: Sheet, roles: Roles, task: Task, splits: DataSplits | None, teacher: LookedAt) -> Facts:
    tokens = token_counts(_sample(roles), teacher)
    numbers = roles.label.numbers if task.numbers else []
    deviation = statistics.pstdev(numbers) if numbers else 0.0
    if splits is not None:
        train = splits.train
        return Facts(len(train), train.labelled, list(train.counts.values()), tokens, deviation)
    share = SPLITS[0][0] * sheet.rows / len(sheet)
    labelled = round(share * len(roles.label.given))
    counts = [] if task.numbers else [math.floor(share * count) for count in roles.label.counts.values()]
    return Facts(round(share * len(sheet)), labelled, counts, tokens, deviation)


def _knows(teacher: LookedAt, labels: list[str], unsure: list[str]) -> bool:
    """Whether a teacher's head has the data's classes; a sentence where its names do not tell."""
    plain = [{name.strip().casefold() for name in names} for names in (teacher.classes, labels)]
    if plain[0] == plain[1]:
        return True
    if len(teacher.classes) == len(labels) and all(re.fullmatch(r"LABEL_\d+", name) for name in teacher.classes):
        unsure.append(
            f"the teacher has a head for {len(labels)} classes without names; if it was trained for this "
            "task, set teacher.fine_tuned: true and remove train_teacher"
        )
    return False


def _sample(roles: Roles) -> list[tuple[str, ...]]:
    columns = [column.values for column in (roles.text, roles.text_pair) if column is not None]
    rows = [row for row in zip(*columns, strict=True) if not any(is_missing(v) for v in row)]
    step = max(1, len(rows) // MEASURED)
    return [tuple(map(str, row)) for row in rows[::step]]


def _settings(data: Path, source: Settings, chosen: Settings, teacher: LookedAt, task: Task, why_task: str) -> Settings:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", data.resolve().stem).strip("-._") or "recipe"
    known = "" if teacher.tokenizer is not None else ", downloaded when the recipe runs"
    found = {
        "name": Chosen(name[:100], "Name of the run folder."),
        "task": Chosen(task.name, f"What the models predict: {why_task}."),
        **source,
        "teacher.source": Chosen(teacher.source, f"Source of the model{known}."),
        "student.source": Chosen(
            "teacher", "The student starts with layers, heads and neurons of the fine-tuned teacher."
        ),
        **chosen,
        "compress_teacher.scheme": Chosen("w8a8", "int8 weights and activations."),
        "distil.hard_weight": Chosen(
            0.5, "Weight of the labels in the loss; that of the teacher's answers is 1. 0 ignores the labels."
        ),
        "distil.hidden_weight": Chosen(
            1.0, "Weight of the distance to the teacher's hidden states in the loss. 0 ignores them."
        ),
        "calibrate": Chosen(None, ""),
        "recover": Chosen(None, ""),
        "convert.schemes": Chosen("w8a8", "Usually the fastest scheme. w4a8-g64 with calibrate: {} is smaller."),
        "goals.kept": Chosen(0.95, f"Share of the teacher's {task.deciding.name} that the student should keep."),
    }
    return found


def _check(text: str, data: bool) -> Checked | None:
    """What `check` says of the recipe; without `data`, which would take long to read, only whether it is one."""
    from kdnative.pipeline.checking import check
    from kdnative.pipeline.recipe import parse_recipe

    recipe = parse_recipe(text, "the recipe")
    return check(recipe, fetch=False) if data else None


def _title(data: Path, sheet: Sheet) -> str:
    return (
        f"Written by kdnative new for {data}.\nCheck it without training: kdnative run THIS_FILE --check\nAll "
        "keys are described in docs/recipes.md."
    )


def _size(sheet: Sheet) -> str:
    about = "" if sheet.complete else "about "
    return f"{about}{sheet.rows:,} rows, {len(sheet.columns) + len(sheet.repeated)} columns"


def _guesses(sheet: Sheet, roles: Roles, task: Task, why_task: str, settings: Settings) -> dict[str, Any]:
    separated = {None: "", "comma": ", commas", "semicolon": ", semicolons", "tab": ", tabs and double quotes"}
    found = {"data": f"{sheet.path}: {_size(sheet)}{separated[sheet.delimiter]}"}
    found["task"] = f"{task.name}: {why_task}"
    for key in ("text", "text_pair", "label", "unlabelled", "unlabelled_files", "empty", "split", "max_length"):
        if (chosen := settings.get(f"data.{key}")) is not None:
            found[key] = f"{chosen.value}: {chosen.why}"
    if not task.numbers:
        most = Counter(roles.label.counts).most_common(8)
        more = f", and {roles.label.distinct - 8:,} more" if roles.label.distinct > 8 else ""
        found["classes"] = ", ".join(f"{shown(name)} {count:,}" for name, count in most) + more
    teacher = settings["teacher.source"].value
    known = settings.get("teacher.fine_tuned")
    found["teacher"] = f"{teacher}: {'fine-tuned on the labels' if known is None else known.why}"
    student = [f"{key} {settings[f'student.{key}'].value}" for key in ("heads", "ffn") if f"student.{key}" in settings]
    found["student"] = ", ".join(student) or settings["student.layers"].why
    for section in [name for name in ("train_teacher", "distil") if f"{name}.epochs" in settings]:
        epochs, batch = settings[f"{section}.epochs"], settings[f"{section}.batch_size"]
        found[section] = f"{epochs.value} epochs of batches of {batch.value}: {epochs.why}"
    if (weights := settings.get("distil.class_weights")) is not None:
        found["weights"] = f"{weights.value}: {weights.why}"
    return found
