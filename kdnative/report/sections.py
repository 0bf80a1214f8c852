"""The report's sections in reading order: each a heading, charts, and the same figures as a table."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from kdnative.report import card, figures, outcome, pictures, words
from kdnative.report.precision import precision
from kdnative.report.read import Run
from kdnative.report.tables import Cell, details, facts, table


def latency(run: Run) -> str | None:
    """Latency over batch size and length."""
    parts = []
    for rows in run.rows("latency").values():
        unit = run.summary.get("case", {}).get("unit", "tokens")
        charts = "".join(f"<figure>{chart}</figure>" for _, chart in figures.latency_by_length(rows, unit))
        lines = [
            [
                Cell(row["model"]),
                *(Cell(str(row[key]), row[key]) for key in ("batch", "tokens", "threads")),
                *(Cell(words.milliseconds(row[key]), row[key]) for key in ("p50", "p20", "p80")),
            ]
            for row in rows
        ]
        columns = ["model", "batch", unit, "threads", "median, ms", "20th percentile", "80th percentile"]
        as_table = table("Latency over batch size and length", columns, lines, numeric=range(1, 7))
        parts.append(f'<div class="pair">{charts}</div>{details("Latencies as a table", as_table)}')
    return "".join(parts) or None


def training(run: Run) -> str | None:
    """Training curves."""
    histories = run.rows("history")
    deciding = run.measures[0]
    charts = figures.training_curves(histories, deciding)
    if not charts:
        return None
    keys = ("loss", "validation_loss", f"validation_{deciding['key']}")
    lines = [
        [
            Cell(stage),
            Cell(str(epoch), epoch),
            Cell(str(point["step"]), point["step"]),
            *(Cell(words.DASH if point.get(k) is None else f"{point[k]:.4f}", point.get(k)) for k in keys),
        ]
        for stage, history in histories.items()
        for epoch, point in figures.by_epoch(history)
    ]
    columns = ["stage", "epoch", "step", "loss", "validation loss", f"validation {deciding['name']}"]
    as_table = table("Training curves", columns, lines, numeric=range(1, 6))
    figures_html = "".join(f"<figure>{chart}</figure>" for chart in charts)
    return f'<div class="pair">{figures_html}</div>{details("Training curves as a table", as_table)}'


def conversion(run: Run) -> str | None:
    """What became of every module: of the final student openly, of other conversions folded."""
    parts = []
    found = run.rows("conversion")
    for stage, rows in found.items():
        lines = [
            [
                Cell(row["name"] or "(model)"),
                Cell(row["kind"]),
                Cell(row["action"], html=f'<span class="tag {escape(row["action"])}">{escape(row["action"])}</span>'),
                Cell(row.get("scheme") or words.DASH),
                Cell(" × ".join(map(str, row.get("shape") or ())) or words.DASH),
                Cell(words.kilobytes(row.get("bytes_before")), row.get("bytes_before")),
                Cell(words.kilobytes(row.get("bytes_after")), row.get("bytes_after")),
                Cell(row.get("reason") or ""),
            ]
            for row in rows
        ]
        columns = ["module", "kind", "action", "scheme", "shape", "before, kB", "after, kB", "reason"]
        made = table(f"Modules, stage {stage}", columns, lines, numeric=(5, 6))
        is_last = stage == list(found)[-1]
        title = f"{len(rows)} modules in stage {stage}: {_counts(rows)}"
        parts.insert(0, details(title, made, open_=is_last and len(rows) <= 60))
    return "".join(parts) or None


def sensitivity(run: Run) -> str | None:
    """Layers by what they lose."""
    parts: list[str] = []
    deciding, unit = run.measures[0], run.summary["task"].get("divergence", "")
    for rows in run.rows("sensitivity").values():
        chart = figures.sensitivity_bars(rows, deciding)
        lines = [
            [
                Cell(row["layer"]),
                Cell(row.get("scheme") or words.DASH),
                Cell(words.measure(row.get("drop"), deciding["percent"], 2), row.get("drop")),
                Cell(
                    words.DASH if row.get("divergence") is None else f"{row['divergence']:.3e}", row.get("divergence")
                ),
            ]
            for row in rows
        ]
        columns = ["layer", "scheme", f"{deciding['name']} lost", f"divergence, {unit}"]
        as_table = table("Sensitivity of the layers", columns, lines, numeric=(2, 3))
        parts.append((f"<figure>{chart}</figure>" if chart else "") + details("Sensitivity as a table", as_table))
    return "".join(parts) or None


def stages(run: Run) -> str | None:
    """How long each stage took."""
    seconds = {stage: record.get("seconds") for stage, record in run.records.items()}
    if not seconds:
        return None
    lines = [[Cell(stage), Cell(words.duration(took), took)] for stage, took in seconds.items()]
    total = sum(took for took in seconds.values() if took is not None)
    lines.append([Cell("all stages"), Cell(words.duration(total), total)])
    columns = ["stage", "time"]
    return table("Time of each stage", columns, lines, numeric=(1,), sortable=False, emphasised=[len(lines) - 1])


def student(run: Run) -> str | None:
    """How the student is called."""
    folder = run.folder / "student"
    if not folder.is_dir():
        return None
    return f'<pre tabindex="0">{escape(card.closing(folder, run.summary["task"]["name"]))}</pre>'


def data(run: Run) -> str | None:
    """The data set."""
    return facts(run.summary.get("data", {})) or None


def machine(run: Run) -> str | None:
    """Where the run was made."""
    measured = {stage: m["environment"] for stage, m in run.metrics.items() if m.get("environment")}
    parts = [facts(run.info.get("machine", {}))]
    parts += [details(f"Environment while {stage} measured", facts(block)) for stage, block in measured.items()]
    return "".join(parts) or None


def recipe(run: Run) -> str | None:
    """The recipe with every default."""
    return f'<pre tabindex="0">{escape(run.recipe)}</pre>' if run.recipe else None


# (anchor, heading, section); a section that returns None is named among what the run does not have.
SECTIONS: tuple[tuple[str, str, Callable[[Run], str | None]], ...] = (
    ("goals", "Goals", outcome.goals),
    ("student", "Use the student", student),
    ("steps", "Did it help?", outcome.steps),
    ("models", "Models", outcome.models),
    ("speed", "Where the speed comes from", outcome.speed),
    ("trade-offs", "Quality, latency and size", outcome.trade_offs),
    ("calibration", "Calibration", outcome.calibration),
    ("disagreements", "Where student and teacher disagree", outcome.disagreements),
    ("pictures", "Some pictures", pictures.samples),
    ("corruptions", "Noise, blur and JPEG", pictures.corruptions),
    ("latency", "Latency over batch size and length", latency),
    ("training", "Training", training),
    ("modules", "Modules", conversion),
    ("precision", "Mixed precision", precision),
    ("sensitivity", "Sensitivity of the layers", sensitivity),
    ("stages", "Time", stages),
    ("data", "Data", data),
    ("machine", "Machine", machine),
    ("recipe", "Recipe", recipe),
)
OPTIONAL = ("student", "pictures", "corruptions")  # what not every run has, and does not lack


def _counts(rows: list[dict]) -> str:
    actions = [row["action"] for row in rows]
    return ", ".join(f"{actions.count(action)} {action}" for action in dict.fromkeys(actions))
