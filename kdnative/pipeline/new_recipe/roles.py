"""Which columns of a table are texts and labels, told from their names and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdnative.data import DataError
from kdnative.pipeline.new_recipe.kinds import NAMES_OF_LABELS, Described, name_parts
from kdnative.shown import listed, shown
from kdnative.tasks import SERVED, Task

__all__ = ["Roles", "find_roles"]

_TEXTS = set(
    "text texts sentence sentences review reviews body content comment comments message tweet post utterance query "
    "question document doc description abstract premise headline title statement snippet passage phrase transcript "
    "email mail feedback caption article paragraph input request utterances msg sms".split()
)
_ABOUT = set(  # what tables say about a row, and what is seldom asked for
    "user author name country lang language source split url product brand location city device version gender age "
    "helpful votes vote likes retweets length count price platform subject worker annotator confidence verified".split()
)
# Names of the two texts of a pair; also any two that differ in their last letter or digit alone.
_PAIRS = (
    ("premise", "hypothesis"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "passage"),
    ("text", "textpair"),
    ("first", "second"),
    ("left", "right"),
    ("claim", "evidence"),
)
_SHORT = 1.5  # words; a column of fewer is names or codes, unless it is called a text


@dataclass(frozen=True)
class Roles:
    """The columns that a recipe names.

    Attributes:
        text, label: the columns. text_pair: of the second texts, or None.
        why: of each role, a sentence or a part of one.
        unsure: sentences about what was a guess.
    """

    text: Described
    text_pair: Described | None
    label: Described
    why: dict[str, str]
    unsure: list[str]


def find_roles(
    columns: Sequence[Described],
    where: str,
    task: Task | None = None,
    text: str | None = None,
    text_pair: str | None = None,
    label: str | None = None,
) -> Roles:
    """Chooses the columns.

    Args:
        columns: of the table.
        where: the file, for messages.
        task: that the user asked for, or None. text, text_pair, label: columns that the user named.

    Raises:
        DataError: no texts, no labels, or data of a kind that recipes do not serve; the text says what to do.
    """
    by_name = {column.name: column for column in columns}
    _check_named(by_name, where, {"--text": text, "--text-pair": text_pair, "--label": label})
    _check_served(by_name, where, text, label)
    unsure: list[str] = []
    candidates = _rank_texts([c for c in columns if c.name not in (text, text_pair, label)])
    first, second, why = _texts(candidates, by_name.get(text), by_name.get(text_pair), task, where, columns)
    used = [column for column in (first, second) if column is not None]
    found, why["label"] = _label(columns, used, by_name.get(label), where, unsure)
    left = [c for c in candidates if c not in (*used, found) and c.words >= 3 * _SHORT]
    if left:
        names = listed(c.name for c in left)
        unsure.append(
            f"{names} may also contain text and is not read; choose other columns with --text and --text-pair"
        )
    return Roles(first, second, found, why, unsure)


def _check_named(by_name: dict[str, Described], where: str, named: dict[str, str | None]) -> None:
    """Raises DataError for columns that the user named and that are not there, or that are named twice."""
    given = {option: name for option, name in named.items() if name is not None}
    for option, name in given.items():
        if name not in by_name:
            raise DataError(f"{where}: there is no column {shown(name)} ({option}); the file has {listed(by_name)}")
    if len(set(given.values())) < len(given):
        raise DataError(f"{where}: {' and '.join(given)} name the same column; give a different column to each")


def _texts(
    candidates: Sequence[Described],
    first: Described | None,
    second: Described | None,
    task: Task | None,
    where: str,
    columns: Sequence[Described],
) -> tuple[Described, Described | None, dict[str, str]]:
    """The texts, the second ones (None: an example is one text), and why.

    Args:
        candidates: columns that may be texts, the likeliest first.
        first, second: columns that the user named.
    """
    named = first is not None
    why = {"text": "you named it", "text_pair": "you named it"}
    if first is None:
        if not candidates:
            raise DataError(
                f"{where}: no column of texts: {_overview(columns)}; name the text column with --text, or "
                "give a file that has one"
            )
        first = candidates[0]
        why["text"] = _why_text(first, len(candidates) > 1)
    if second is not None or (task is not None and not task.pair):
        return first, second, why
    others = [column for column in candidates if column is not first]
    first, second, why_pair = _pair(first, others, named, task is not None)
    if second is not None:
        why |= {"text": why_pair, "text_pair": why_pair}
    elif task is not None:
        raise DataError(
            f"{where}: {task.name} reads two texts, and only {shown(first.name)} holds texts; name the second "
            "column with --text-pair"
        )
    return first, second, why


def _check_served(by_name: dict[str, Described], where: str, text: str | None, label: str | None) -> None:
    """Refuses tables of tasks that recipes do not serve, which their columns give away."""
    names = {"".join(name_parts(name)) for name in by_name}
    answers = names & {"answers", "answer", "answertext", "answerstart"}
    if label is None and {"question", "context"} <= names and answers:
        raise DataError(f"{where}: the columns question, context and answers are data for question answering. {SERVED}")
    tokens = [c.name for name, c in by_name.items() if c.kind == "list" and {"tokens", "words"} & set(name_parts(name))]
    if tokens and text is None:
        raise DataError(f"{where}: {shown(tokens[0])} holds lists, as in data for token classification. {SERVED}")


def _rank_texts(columns: Sequence[Described]) -> list[Described]:
    """The columns that may be texts, the likeliest first."""

    def score(column: Described) -> float:
        parts = set(name_parts(column.name))
        named = 3.0 if parts & _TEXTS else 0.3 if parts & (NAMES_OF_LABELS | _ABOUT) else 1.0
        named = 8.0 if "".join(name_parts(column.name)) in ("text", "sentence") else named
        return named * min(column.words, 50.0) * (0.05 + column.distinct / len(column.given))

    able = [c for c in columns if c.kind == "words" and all(isinstance(v, str) for v in c.given)]
    able = [c for c in able if c.words > _SHORT or (set(name_parts(c.name)) & _TEXTS and c.distinct > 1)]
    long = [c for c in able if not c.few or set(name_parts(c.name)) & _TEXTS]
    return sorted(long, key=score, reverse=True)


def _why_text(column: Described, chosen: bool) -> str:
    long = f"{column.words:.0f} words on average, {column.distinct:,} of {len(column.given):,} different"
    return f"{long}; the best match among the columns" if chosen else long


def _pair(
    first: Described, others: Sequence[Described], fixed: bool, wanted: bool
) -> tuple[Described, Described | None, str]:
    """The two texts of a pair in their order; the second is None where no names belong together."""
    for other in others:
        for a, b in ((first, other), (other, first)):
            if _belong_together(a.name, b.name) and not (fixed and a is not first):
                return a, b, f"{shown(a.name)} and {shown(b.name)} are typical names for text pairs"
    if wanted and others:
        return first, others[0], "the task reads two texts, and these columns are the longest"
    return first, None, ""


def _belong_together(a: str, b: str) -> bool:
    first, second = ("".join(name_parts(name)) for name in (a, b))
    if (first, second) in _PAIRS:
        return True
    same = first[:-1] == second[:-1] and len(first) > 1 and len(first) == len(second)
    return same and (first[-1], second[-1]) in (("1", "2"), ("0", "1"), ("a", "b"), ("x", "y"))


def _label(
    columns: Sequence[Described], texts: Sequence[Described], named: Described | None, where: str, unsure: list[str]
) -> tuple[Described, str]:
    able = [c for c in columns if c not in texts and c.kind in ("words", "number", "flag", "list")]
    if named is not None:
        _check_label(named, where)
        return named, "you named it"
    flags = [c for c in able if set(c.counts) <= {"0", "1"} and c.distinct == 2]
    best = sorted(able, key=lambda c: _label_score(c, columns), reverse=True)
    if best and _label_score(best[0], columns) <= 0:  # nothing speaks for it but its values
        best = [c for c in best if c.distinct > 1 and (c.few or c.kind in ("number", "flag"))]
        unsure += [
            f"the name of {shown(c.name)} does not say that it is a label; choose another column with --label"
            for c in best[:1]
        ]
    if not best:
        raise DataError(
            f"{where}: no column of labels: {_overview(columns)}; name the label column with --label. "
            f"Training needs labels. {SERVED}"
        )
    chosen = best[0]
    if len(flags) > 2 and chosen in flags:
        raise DataError(
            f"{where}: {listed(c.name for c in flags)} hold only 0 and 1, as in multi-label data; choose one "
            f"of them with --label. {SERVED}"
        )
    _check_label(chosen, where)
    close = [c for c in best[1:] if _label_score(c, columns) >= _label_score(chosen, columns) - 15]
    if close:
        unsure.append(f"the labels could also be {listed(c.name for c in close)}: choose another column with --label")
    kind = "numbers" if chosen.kind == "number" else "values"
    reason = f"{chosen.distinct:,} different {kind} in {len(chosen.given):,} rows"
    return chosen, f"a usual name for labels; {reason}" if _named_label(chosen) else reason


def _named_label(column: Described) -> bool:
    parts = name_parts(column.name)
    return bool(set(parts) & NAMES_OF_LABELS) or parts[:1] == ["is"]


def _label_score(column: Described, columns: Sequence[Described]) -> float:
    parts = name_parts(column.name)
    score = 60.0 if "".join(parts) in NAMES_OF_LABELS else 45.0 if _named_label(column) else 0.0
    score -= 40.0 if set(parts) & _ABOUT else 0.0
    score += 20.0 if column.few and column.distinct > 1 else 0.0
    score += 10.0 if column.kind in ("number", "flag") and column.distinct > 1 else 0.0
    score -= 30.0 if column.kind == "words" and not column.few and column.words > 2 * _SHORT else 0.0
    score += 3.0 if column is columns[-1] else 2.0 if column is columns[0] else 0.0
    return score + 5.0 * len(column.given) / max(1, len(column.values))


def _check_label(column: Described, where: str) -> None:
    if column.kind == "list":
        raise DataError(
            f"{where}: {shown(column.name)} holds lists such as {shown(column.given[0])}; give one label for "
            f"each text. {SERVED}"
        )
    if not column.given:
        raise DataError(f"{where}: no row has a label in the column {shown(column.name)}")
    if column.kind == "words" and not column.few and column.words > 3 * _SHORT:
        raise DataError(
            f"{where}: {shown(column.name)} has {column.distinct:,} different texts in {len(column.given):,} "
            f"rows: these look like answers to generate, not like classes. {SERVED}"
        )


def _overview(columns: Sequence[Described]) -> str:
    words = {"words": "words", "number": "numbers", "flag": "true or false", "id": "ids", "date": "dates"}
    words |= {"address": "addresses", "list": "lists", "empty": "nothing"}
    found = [f"{shown(c.name)} holds {words[c.kind]}" for c in columns[:8]]
    return ", ".join(found) + (f" and {len(columns) - 8} more" if len(columns) > 8 else "")


def combined(column: Described) -> str | None:
    """The mark that joins several labels in one, where most of the longer labels are made of shorter ones."""
    for mark in "|;,":
        joined = [name for name in column.counts if mark in name]
        parts = {part.strip() for name in joined for part in re.split(re.escape(mark), name)}
        if len(joined) > 2 and len(parts) < len(joined):
            return mark
    return None
