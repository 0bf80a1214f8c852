"""Data that Debian packages carry: fetched by apt without root, pinned by SHA-256, unpacked into the user's cache.

Nothing of a package is installed or run: its archive of files is only unpacked, as far as it is needed.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from kdnative.data.packages import FetchError, cache_dir, cached
from kdnative.files import sha256_of

__all__ = ["FASHION_MNIST", "OPENCLIPART", "Deb", "unpacked"]

log = logging.getLogger(__name__)

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes before each member of an ar archive


@dataclass(frozen=True)
class Deb:
    """One Debian package.

    Attributes:
        package, version: as apt knows them. sha256: of the package file (hex).
        folder: what is unpacked of it, without the leading "/".
    """

    package: str
    version: str
    sha256: str
    folder: str


OPENCLIPART = Deb(
    "openclipart-png",
    "1:0.18+dfsg-19",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "usr/share/openclipart/png",
)
FASHION_MNIST = Deb(
    "dataset-fashion-mnist",
    "0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    "usr/share/datasets/fashion-mnist",
)


def unpacked(deb: Deb) -> Path:
    """The folder of a package's files in the cache, fetched when it is not there yet.

    A package file that lies in the cache already, as ``debs/PACKAGE.deb``, is taken instead of asking apt.

    Raises:
        FetchError: apt is missing, failed (offline, for example), or delivered something else than what is pinned.
    """

    def build(target: Path, scratch: Path) -> None:
        file = cache_dir() / "debs" / f"{deb.package}.deb"
        file = file if file.is_file() else _fetch(deb, scratch)
        found = sha256_of(file)
        if found != deb.sha256:
            raise FetchError(f"{file.name}: its SHA-256 is {found}, but {deb.sha256} is expected")
        target.mkdir()
        _unpack(file, deb.folder, target)

    return cached(f"data/{deb.package}-{deb.sha256[:12]}", build)


def _fetch(deb: Deb, scratch: Path) -> Path:
    by_hand = (
        f"Fetch {deb.package} {deb.version} from a Debian mirror by hand and put it at "
        f"{cache_dir() / 'debs' / f'{deb.package}.deb'}"
    )
    if shutil.which("apt-get") is None:
        raise FetchError(f"{deb.package}: apt-get is needed to fetch this Debian package. {by_hand}")
    log.info("fetching %s %s with apt-get", deb.package, deb.version)
    command = ["apt-get", "download", "--quiet", f"{deb.package}={deb.version}"]
    run = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
    files = sorted(scratch.glob("*.deb"))
    if run.returncode or not files:
        said = "\n  ".join((run.stderr or run.stdout).strip().splitlines()[-4:])
        raise FetchError(
            f"apt-get could not fetch {deb.package}={deb.version} (is `apt-get update` needed?):\n  {said}\n{by_hand}"
        )
    return files[0]


def _unpack(file: Path, folder: str, target: Path) -> None:
    """Copies the plain files below a folder of a package; links and everything else are left out."""
    with _data_of(file) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isreg() or ".." in path.parts or not path.is_relative_to(folder):
                continue
            place = target / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.extractfile(member) as source, open(place, "wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)


@contextmanager
def _data_of(file: Path) -> Iterator[IO[bytes]]:
    """A package file at the start of its archive of files: a member of an ar archive, whose headers are plain text."""
    with open(file, "rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise FetchError(f"{file.name} is not a Debian package")
        while len(header := stream.read(_HEADER)) == _HEADER:
            name, size = header[:16].decode("ascii", "replace").strip(" /"), int(header[48:58])
            if name.startswith("data.tar"):
                yield stream
                return
            stream.seek(size + size % 2, 1)
    raise FetchError(f"{file.name} holds no file archive")
