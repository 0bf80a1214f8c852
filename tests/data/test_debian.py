"""Debian packages: unpacked without root and without running anything, and nothing but what was pinned."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest

from kdnative.data import FetchError, debian
from kdnative.data.debian import Deb, unpacked


def deb(files: dict[str, bytes]) -> bytes:
    """A package file with a link and a file outside of the folder beside the given ones."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("./usr/share/thing/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": inner.getvalue()}
    made = b"!<arch>\n"
    for name, data in members.items():
        made += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    return made


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path))
    (tmp_path / "debs").mkdir()
    return tmp_path


def test_plain_files_of_the_folder_are_unpacked_and_nothing_else(place):
    data = deb({"usr/share/thing/a/one": b"1", "usr/share/thing/../../out": b"2", "usr/share/other": b"3"})
    (place / "debs" / "thing.deb").write_bytes(data)
    found = unpacked(Deb("thing", "1", hashlib.sha256(data).hexdigest(), "usr/share/thing"))
    assert [p.relative_to(found).as_posix() for p in sorted(found.rglob("*"))] == ["a", "a/one"]
    assert (found / "a" / "one").read_bytes() == b"1"


def test_another_file_than_the_pinned_one_is_refused(place):
    (place / "debs" / "thing.deb").write_bytes(deb({}))
    with pytest.raises(FetchError, match="its SHA-256 is .* is expected"):
        unpacked(Deb("thing", "1", "0" * 64, "usr"))


def test_a_file_that_is_no_package_is_refused(place):
    for data, words in ((b"text", "is not a Debian package"), (deb({})[:8], "holds no file archive")):
        (place / "debs" / "thing.deb").write_bytes(data)
        with pytest.raises(FetchError, match=words):
            unpacked(Deb("thing", "1", hashlib.sha256(data).hexdigest(), "usr"))


def test_without_apt_the_error_says_where_to_put_the_file(place, monkeypatch):
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(FetchError, match=r"apt-get is needed(.|\n)*debs/absent\.deb"):
        unpacked(Deb("absent", "1", "0" * 64, "usr"))
