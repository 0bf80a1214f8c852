"""Hub data sets, with a stand-in for the package `datasets` that has the part of its interface that is used."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from kdnative.data import DataError, load_dataset, model_path
from kdnative.data.hub import hub_commit


class Table:
    def __init__(self, names=None, **columns):
        self.columns = columns
        self.column_names = list(columns)
        self.features = {c: SimpleNamespace(names=names) if c == "label" and names else object() for c in columns}

    def __getitem__(self, column):
        return self.columns[column]


def table(n, start=0, label=None, names=("neg", "pos")):
    return Table(names, text=[f"text {start + i}" for i in range(n)], label=label or [i % 2 for i in range(n)])


@pytest.fixture
def hub(monkeypatch):
    """Sets what `datasets.load_dataset` returns; .asked holds the arguments."""
    module = ModuleType("datasets")

    def load(name, config=None, revision=None):
        module.asked = (name, config, revision)
        return module.content

    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_three_splits(hub):
    hub.content = {"train": table(8), "validation": table(4, 50), "test": table(4, 80)}
    splits = load_dataset("hub:owner/name", config="de", revision="abc")
    assert hub.asked == ("owner/name", "de", "abc")
    assert splits.labels == ("neg", "pos")
    assert (splits.validation[0]["text"], splits.test[1].label) == ("text 50", 1)


def test_unlabelled_test_split_is_replaced_by_the_validation_data(hub):
    hub.content = {"train": table(100), "validation": table(4, 200), "test": table(4, 300, [-1] * 4)}
    splits = load_dataset("hub:glue")
    assert splits.test.column("text") == [f"text {i}" for i in range(200, 204)]
    assert sorted(splits.train.column("text") + splits.validation.column("text")) == sorted(
        f"text {i}" for i in range(100)
    )
    assert 2 <= len(splits.validation) <= 25


@pytest.mark.parametrize("hidden", [-1, -1.0, None])
def test_targets_published_without_labels_are_replaced_too(hub, hidden):
    def scores(n, start, label=None):
        return Table(None, text=[f"text {start + i}" for i in range(n)], label=label or [i / n for i in range(n)])

    hub.content = {"train": scores(100, 0), "validation": scores(4, 200), "test": scores(4, 300, [hidden] * 4)}
    splits = load_dataset("hub:stsb", numbers=True)
    assert splits.test.column("text") == [f"text {i}" for i in range(200, 204)]
    hub.content["test"] = scores(4, 300, [2.5] * 4)
    with pytest.raises(DataError, match="all 4 examples of the test split have the label 2.5, so nothing can be"):
        load_dataset("hub:stsb", numbers=True)


def test_unlabelled_texts_of_other_splits_are_left_out(hub):
    labels = [0, 1, None, None] * 2
    train = Table(("neg", "pos"), text=[f"text {i}" for i in range(8)], label=labels)
    test = Table(("neg", "pos"), text=["Text  2", "text 9"], label=[0, 1])
    hub.content = {"train": train, "validation": table(4, 50), "test": test}
    found = load_dataset("hub:x", unlabelled="keep")
    assert [e["text"] for e in found.train if e.label is None] == ["text 3", "text 6", "text 7"]
    assert found.train.labelled == 4


def test_a_missing_second_column_is_named_with_its_option(hub):
    hub.content = {"train": table(4)}
    with pytest.raises(DataError, match=r"no column 'second'.*text_pair_column= .*data\.text_pair and data\.label"):
        load_dataset("hub:x", text_pair_column="second")


def test_training_data_alone_is_split(hub):
    hub.content = {"train": table(200)}
    splits = load_dataset("hub:x")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 200


def test_text_labels_without_class_names(hub):
    words = ["b", "a"] * 4
    hub.content = {name: table(8, i * 8, words, None) for i, name in enumerate(("train", "validation", "test"))}
    splits = load_dataset("hub:x")
    assert splits.labels == ("a", "b") and [e.label for e in splits.train][:2] == [1, 0]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([10, 9, 2], ("2", "9", "10")),  # in the order of files: numbers by their value
        (["10", "9", "2"], ("2", "9", "10")),
        ([" b", "a", "b "], ("a", "b")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_undeclared_labels_are_those_of_files(hub, values, labels):
    hub.content = {name: table(3, i * 3, values, None) for i, name in enumerate(("train", "validation", "test"))}
    splits = load_dataset("hub:x")
    assert splits.labels == labels
    assert [labels[e.label] for e in splits.test] == [str(v).strip() for v in values]


def test_declared_classes_keep_their_order(hub):
    content = {name: table(4, i * 4, names=("pos", "neg")) for i, name in enumerate(("train", "validation", "test"))}
    hub.content = content
    assert load_dataset("hub:x").labels == ("pos", "neg")


def test_rows_without_text_can_be_dropped(hub):
    columns = {"text": ["a", None, " ", "b"], "label": ["x", None, "x", "y"]}
    others = {name: Table(None, text=[name, None], label=["x", None]) for name in ("validation", "test")}
    hub.content = {"train": Table(None, **columns), **others}
    splits = load_dataset("hub:x", empty="drop")
    assert splits.train.column("text") == ["a", "b"] and splits.labels == ("x", "y")
    assert [e.id for e in splits.train] == ["0", "3"], "rows keep their numbers"
    with pytest.raises(DataError, match='row 1: .* not a text: None; repair it or pass empty="drop"'):
        load_dataset("hub:x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"test": table(4)}, "hub:x: no split named 'train'; it has test"),
        ({"train": Table(None, body=["a"], label=[0])}, "no column 'text'; it has body, label"),
        ({"train": Table(None, text=["a"], y=[0])}, "no column 'label'"),
        ({"train": Table(("a", "b"), text=["a", " "], label=[0, 1])}, "hub:x/train, row 1: 'text' is not a text"),
        ({"train": Table(("a", "b"), text=["a", "b"], label=[0, 2])}, "row 1: the label 2 does not occur"),
        ({"train": Table(None, text=["a", "b"], label=["x", None])}, "hub:x/train, row 1: the label .* not None"),
        ({"train": Table(None, text=["a", "b"], label=["x", " "])}, "hub:x/train, row 1: the label .* is empty"),
        ({"train": Table(None, text=["a", "b"], label=[0.0, 1.0])}, "hub:x/train, row 0: the label .* not 0.0"),
        ({"train": Table(None, text=["a", 3], label=["x", "y"])}, "hub:x/train, row 1: 'text' is not a text: 3"),
    ],
)
def test_unusable_content(hub, content, message):
    hub.content = content
    with pytest.raises(DataError, match=message):
        load_dataset("hub:x")


def test_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"a hub: name needs the package .datasets.*kdnative\[hub\]"):
        load_dataset("hub:x")


def test_the_commit_of_a_model_that_is_here(monkeypatch):
    module = ModuleType("huggingface_hub")
    module.snapshot_download = lambda name, local_files_only: (
        f"/hub/models--{name}/snapshots/abc" if local_files_only else 0
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    assert hub_commit("m") == "abc"
    module.snapshot_download = lambda name, local_files_only: open("/absent/model")
    assert hub_commit("m") is None
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert hub_commit("m") is None


def test_models_come_without_pickles(monkeypatch):
    module = ModuleType("huggingface_hub")
    module.snapshot_download = lambda name, **options: f"{name} {options}"
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    found = model_path("hub:owner/model")
    assert found.startswith("owner/model") and "safetensors" in found
    assert ".bin" not in found and "'*'" not in found
    with pytest.raises(ValueError, match="needs a name"):
        model_path("hub:")
