"""The report as one HTML file: no script, style, font or picture comes from anywhere else."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from kdnative import __version__
from kdnative.report.read import Run
from kdnative.report.sections import OPTIONAL, SECTIONS

# The browser itself then refuses anything that is not in the file.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)


def render(run: Run) -> tuple[str, list[str]]:
    """The page, and the headings of the sections that the run has no figures for."""
    made = [(anchor, heading, section(run)) for anchor, heading, section in SECTIONS]
    absent = [heading for anchor, heading, content in made if content is None and anchor not in OPTIONAL]
    present = [(anchor, heading, content) for anchor, heading, content in made if content is not None]
    contents = "".join(f'<li><a href="#{anchor}">{escape(heading)}</a></li>' for anchor, heading, _ in present)
    body = "\n".join(
        f'<section id="{anchor}" aria-labelledby="h-{anchor}">'
        f'<h2 id="h-{anchor}">{escape(heading)}</h2>{content}</section>'
        for anchor, heading, content in present
    )
    missing = f'<p class="caption">Not part of this run: {escape(", ".join(absent))}.</p>' if absent else ""
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="kdnative {__version__}">
<title>{escape(run.name)} – kdnative report</title>
<style>
{_asset("chart.css")}{_asset("report.css")}</style>
</head>
<body>
<header>
<p class="eyebrow">kdnative report</p>
<h1>{escape(run.name)}</h1>
<p class="lead">{escape(_verdict(run))}</p>
</header>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
<main>
{body}
{missing}
</main>
<footer><p>kdnative {__version__}. All figures were measured in this run.</p></footer>
<script>
{_asset("report.js")}</script>
</body>
</html>
"""
    return page, absent


def _verdict(run: Run) -> str:
    goals = run.summary.get("goals", [])
    if not goals:
        return "This recipe sets no goals."
    met = sum(1 for goal in goals if goal["met"])
    in_doubt = sum(1 for goal in goals if goal["met"] is None and goal["value"] is not None)
    return f"{met} of {len(goals)} goals met" + (f", {in_doubt} open." if in_doubt else ".")


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
