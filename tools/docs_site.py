"""A hook of mkdocs: pages that are not files of docs/, and links that hold in the repository and on the site alike."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
# README is the front page; its neighbours keep their names.
BESIDE = {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")} | {"README.md": "index.md"}
# The packages with a page in the reference. It shows what the package's __all__ names.
PACKAGES = (
    "data", "distill", "prune", "quantize", "convert", "nn", "cnn", "checkpoint", "evaluate", "precision", "tasks",
    "transformers", "pipeline", "report", "models", "formats", "ops",
)  # fmt: skip
# Functions that have the name of their module, which the reference would take them for.
HIDDEN = {
    "cnn": "::: kdnative.cnn.regions.regions\n    options: {heading_level: 2}\n",
    "convert": "::: kdnative.convert.native_forward.native_forward\n    options: {heading_level: 2}\n",
    "transformers": "::: kdnative.transformers.trainer.DistillationTrainer\n    options: {heading_level: 2}\n",
    "precision": "::: kdnative.precision.sensitivity.sensitivity\n    options: {heading_level: 2}\n",
    "evaluate": "::: kdnative.evaluate.predict.predict\n    options: {heading_level: 2}\n",
}
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config):
    """The pages of the reference follow their overview in the navigation."""
    pages = next(section["API"] for section in config.nav if "API" in section)
    pages += [{f"kdnative.{name}": f"api/{name}.md"} for name in PACKAGES]


def on_files(files, config):
    """README and its neighbours, and the pages of the reference."""
    for source, page in BESIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for name in PACKAGES:
        content = f"::: kdnative.{name}\n\n{HIDDEN.get(name, '')}"
        files.append(File.generated(config, f"api/{name}.md", content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """Links between files of the repository become links between pages."""
    uri = page.file.src_uri
    if uri.startswith("api/"):
        return markdown
    folder = ROOT if uri in BESIDE.values() else ROOT / "docs"

    def moved(match: re.Match) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target or target.startswith("api/"):  # another site, or a page that is made here
            return match[0]
        path = (folder / target).resolve()
        if path.parent == ROOT and path.name in BESIDE:
            return f"[{text}]({BESIDE[path.name]}{anchor})"
        if path.is_relative_to(ROOT / "docs"):
            return f"[{text}]({path.relative_to(ROOT / 'docs').as_posix()}{anchor})"
        if not path.exists():
            raise ValueError(f"{uri}: there is no {target}, which [{text}] links to")
        return text  # a source file: no part of the site

    return LINK.sub(moved, markdown)
