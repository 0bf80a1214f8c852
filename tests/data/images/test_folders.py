"""Folders, IDX files and pictures in memory: what is read, how splits are cut, and what is refused in words."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from kdnative.data import DataError
from kdnative.data.images import from_pictures, load_images
from kdnative.data.images.decoding import decode
from kdnative.data.images.splitting import in_parts
from kdnative.data.types import IMAGE
from kdnative.pipeline import load_recipe
from tests.data.images.folders import CLASSES, picture, write_folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "cache"))


def test_a_folder_of_classes_is_cut_into_splits(tmp_path):
    found = load_images(write_folder(tmp_path / "p", 20), side=20, split=(0.6, 0.2, 0.2))
    assert found.labels == CLASSES
    assert found.train.counts == dict.fromkeys(CLASSES, 12) and found.test.counts == dict.fromkeys(CLASSES, 4)
    ids = [e.id for part in (found.train, found.validation, found.test) for e in part]
    assert len(set(ids)) == 60
    first = found.train[0]
    number = int(first.id[-7:-4])
    assert np.array_equal(first.fields[IMAGE].pixels, picture("cross", number))  # PNG keeps every bit


def test_given_splits_stay_and_a_missing_one_is_cut_from_training(tmp_path):
    write_folder(tmp_path / "p" / "train", 10)
    write_folder(tmp_path / "p" / "test", 2, side=21)
    found = load_images(tmp_path / "p", side=20, split=(0.8, 0.2, 0.0))
    assert found.sizes == {"labelled": 24, "unlabelled": 0, "validation": 6, "test": 6}
    assert all(e.id.startswith("test/") for e in found.test)


def test_the_recipe_for_pictures_of_ones_own_takes_a_folder_of_classes(tmp_path):
    recipe = load_recipe(Path(__file__).parents[3] / "recipes" / "resnet50-mobilenetv2.yaml")
    found = load_images(write_folder(tmp_path / "p", 10), side=20, split=recipe.data.split)
    assert found.sizes == {"labelled": 24, "unlabelled": 0, "validation": 3, "test": 3}


def test_the_same_split_again_whatever_the_order(tmp_path):
    folder = write_folder(tmp_path / "p", 12)
    one = load_images(folder, side=20)
    os.utime(folder / "disc" / "disc_001.png", (1, 1))  # decoded again
    assert load_images(folder, side=20).fingerprint == one.fingerprint


def test_pictures_of_a_group_stay_together(tmp_path):
    """Files 000 to 009, 010 to 019, ...: the first two digits are a group."""
    found = load_images(write_folder(tmp_path / "p", 60), side=20, group=r"_(\d\d)", split=(0.5, 0.25, 0.25))
    groups = [{(e.label, e.id[-7:-5]) for e in part} for part in (found.train, found.validation, found.test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert all(len({label for label, _ in part}) == 3 for part in groups)


def test_parts_have_their_shares_and_a_large_group_sits_in_the_large_part():
    groups = ["large"] * 50 + [f"g{i}" for i in range(50)]
    places = in_parts(groups, [0] * 100, (0.8, 0.1, 0.1), ("train", "validation", "test"))
    assert Counter(places) == {0: 80, 1: 10, 2: 10} and set(places[:50]) == {0}
    groups = [f"of five {i}" for i in range(12) for _ in range(5)] + [f"single {i}" for i in range(40)]
    places = in_parts(groups, [0] * 100, (0.6, 0.2, 0.2), ("train", "validation", "test"))
    assert Counter(places) == {0: 60, 1: 20, 2: 20} and set(places[:60]) == {0}  # tests are of single pictures
    assert in_parts(["a", "b", "c"], [0, 0, 0], (0.98, 0.01, 0.01), ("x", "y", "z")) != [0, 0, 0]


def test_pictures_of_training_that_are_held_out_too_are_left_out(tmp_path):
    folder = write_folder(tmp_path / "p" / "train", 6).parent
    write_folder(folder / "test", 3)  # the same pictures, byte for byte
    write_folder(folder / "val", 2, side=22)
    found = load_images(folder, side=20)
    assert len(found.train) == 9 and "9 of 18 training pictures are left out" in found.notes[-1]


def test_a_few_keep_their_labels(tmp_path):
    found = load_images(write_folder(tmp_path / "p", 20), side=20, labelled=7, limit=30)
    assert found.train.labelled == 7 and len(found.train) == 30 and all(n for n in found.train.counts.values())


def test_broken_pictures_are_all_named_or_dropped(tmp_path):
    folder = write_folder(tmp_path / "p", 10)
    (folder / "disc" / "disc_004.png").write_bytes(b"no picture")
    whole = (folder / "cross" / "cross_002.png").read_bytes()
    (folder / "cross" / "cross_002.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"2 of 30 pictures can't be read.*\n.*cross_002.*\n.*disc_004"):
        load_images(folder, side=20)
    found = load_images(folder, side=20, broken="drop")
    assert sum(found.sizes.values()) == 28 and "2 unreadable pictures are left out" in found.notes[0]
    with pytest.raises(DataError, match="2 of 30"):  # although they are in the cache now
        load_images(folder, side=20)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "nothing", "there is no such folder"),
        (
            lambda p: write_folder(p / "one", 5, classes=("disc",)),
            "1 subfolders for classes, but at least 2 are needed",
        ),
        (
            lambda p: write_folder(p / "loose", 3).joinpath("disc"),
            "pictures such as disc_000.png are not in a subfolder",
        ),
        (lambda p: write_folder(p / "few", 2), "the class 'cross' has 2 groups of pictures, too few for 3 parts"),
    ],
)
def test_folders_that_are_none_are_refused(tmp_path, make, words):
    with pytest.raises(DataError, match=words):
        load_images(make(tmp_path), side=20)


def test_classes_have_to_be_in_every_split(tmp_path):
    write_folder(tmp_path / "p" / "train", 5)
    write_folder(tmp_path / "p" / "test", 3, side=21, classes=CLASSES[:2])
    with pytest.raises(DataError, match="test: there is no folder for the class 'square'"):
        load_images(tmp_path / "p", side=20)
    (tmp_path / "p" / "test" / "square").mkdir()
    with pytest.raises(DataError, match="square: a folder without pictures"):
        load_images(tmp_path / "p", side=20)
    write_folder(tmp_path / "p" / "test", 3, side=21)
    (tmp_path / "p" / "test" / "star").mkdir()
    with pytest.raises(DataError, match="the training split has no class 'star'"):
        load_images(tmp_path / "p", side=20)


def test_other_files_are_passed_over_and_said(tmp_path):
    folder = write_folder(tmp_path / "p", 5)
    (folder / "disc" / "notes.txt").write_text("x")
    (folder / "disc" / ".hidden.png").write_text("x")
    os.symlink(folder / "disc" / "disc_000.png", folder / "disc" / "link.png")
    found = load_images(folder, side=20, split=(0.6, 0.2, 0.2))
    assert sum(found.sizes.values()) == 15 and "1 files are not pictures" in found.notes[0]


def test_folders_of_links_are_said_to_be_that(tmp_path):
    files = write_folder(tmp_path / "files", 3)
    for name in CLASSES:
        (tmp_path / "p" / name).mkdir(parents=True)
        for file in (files / name).iterdir():
            os.symlink(file, tmp_path / "p" / name / file.name)
    with pytest.raises(DataError, match="cross: its 3 pictures are links, .* replace them with the files"):
        load_images(tmp_path / "p", side=20)


def test_transparent_wide_and_turned_pictures():
    clear = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    assert (decode(clear, 10, "pad") == 255).all()  # on white
    wide = Image.new("RGB", (40, 20), "blue")
    assert (decode(wide, 10, "crop") == (0, 0, 255)).all()
    padded = decode(wide, 20, "pad")
    assert (padded[:5] == 255).all() and (padded[5:15] == (0, 0, 255)).all() and (padded[15:] == 255).all()
    palette = Image.new("P", (8, 8))
    palette.info["transparency"] = 0
    assert decode(palette, 8).shape == (8, 8, 3)


def _idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def test_idx_files(tmp_path):
    generator = np.random.Generator(np.random.PCG64(0))
    pixels, labels = generator.integers(0, 256, (40, 5, 4), np.uint8), np.arange(40, dtype=np.uint8) % 2
    for name, data in (("train-images-idx3-ubyte", pixels), ("train-labels-idx1-ubyte", labels)):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(_idx(data)))
    found = load_images(tmp_path, side=8, split=(0.5, 0.25, 0.25))
    assert found.labels == ("0", "1") and found.sizes["labelled"] == 20
    row = int(found.test[0].id.split(":")[1])
    shown = found.test[0].fields[IMAGE].pixels
    assert shown.shape == (8, 8, 3) and np.array_equal(shown[1:6, 2:6, 1], pixels[row]) and shown[0].max() == 0
    for name, data in (("images-idx3", pixels[:0]), ("labels-idx1", labels[:0])):
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(_idx(data)))
    with pytest.raises(DataError, match="its files hold no pictures"):
        load_images(tmp_path, side=8)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)[:-1]))
    with pytest.raises(DataError, match=r"its header says \[40\], but 39 bytes follow"):
        load_images(tmp_path, side=8)
    whole = gzip.compress(_idx(labels))
    for damaged in (whole[:10] + b"\xff" * 20 + whole[30:], whole[: len(whole) // 2], b"no gzip"):
        (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: can't be read"):
            load_images(tmp_path, side=8)


def test_data_sets_of_torch_are_pictures_in_memory():
    pairs = [(picture(CLASSES[i % 3], i), i % 3) for i in range(9)]
    data = torch.utils.data.Subset(pairs, range(6))
    found = from_pictures(data, CLASSES, side=20, name="mine")
    assert len(found) == 6 and found.counts == dict.fromkeys(CLASSES, 2)
    assert np.array_equal(found[1].fields[IMAGE].pixels, pairs[1][0])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("text", "example 1 is a str, not a Pillow image"),
        (np.zeros((4, 4), np.float32), r"example 1 is float32 \[4, 4\], not a Pillow image or a uint8"),
        (np.zeros((4, 4, 3), np.int64), r"int64 \[4, 4, 3\]"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 \[3, 4, 4\]"),
        (np.zeros((0, 4), np.uint8), r"uint8 \[0, 4\]"),
        (torch.zeros(4, 4, 3), r"float32 \[4, 4, 3\]"),
        ([[1, 2], [3, 4]], r"int64 \[2, 2\]"),
        ([[1, 2], [3]], "example 1 is"),
    ],
)
def test_arrays_that_are_no_pictures(given, words):
    good = (torch.zeros(4, 5, dtype=torch.uint8), 0)
    assert len(from_pictures([good], CLASSES, side=20)) == 1
    with pytest.raises(DataError, match=words):
        from_pictures([good, (given, 0)], CLASSES, side=20)


def test_numbers_and_names_are_checked(tmp_path):
    for options, words in (
        ({"side": 0}, "side=0: at least 1"),
        ({"limit": 0}, "limit=0"),
        ({"group": "("}, "is not a regular expression"),
        ({"fit": "squash"}, "fit='squash'"),
        ({"split": (0.8, 0.2)}, r"split=\(0.8, 0.2\): give three shares"),
    ):
        with pytest.raises(ValueError, match=words):
            load_images(write_folder(tmp_path / "p", 3), **{"side": 20, **options})
    with pytest.raises(ValueError, match="pictures come from package:openclipart and package:fashion-mnist"):
        load_images("package:nothing")
