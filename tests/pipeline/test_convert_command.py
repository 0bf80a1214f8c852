"""`kdnative convert --calibrate`: texts of a file, methods, and what is refused before a model is loaded."""

from __future__ import annotations

import re

import pytest
import torch

import kdnative
from kdnative.cli import main
from kdnative.data.columns import Columns
from kdnative.data.transfer import read_texts
from kdnative.pipeline.calibration_texts import Loss, batches_of, two_parts
from kdnative.pipeline.models import load_any
from tests.pipeline.conftest import sentences, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny", layers=2)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(text for text, _ in sentences(60, 2)) + "\n\n", encoding="utf-8")
    return file


def ids():
    return torch.tensor([[2, 6, 7, 8, 3], [2, 9, 12, 5, 3]])


def test_the_weights_are_those_of_the_same_call_in_python(capsys, model, texts, tmp_path):
    out = tmp_path / "out"
    arguments = ["--scheme", "w4a8-g32", "--calibrate", str(texts), "--method", "gptq", "--texts", "20"]
    assert main(["convert", str(model), str(out), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "gptq" in printed
    assert re.search(
        r"loss on 20 other texts of .*: mean of 1 - cosine [\d.e-]+, \d+\.\d % keep their nearest", printed
    )
    plain, tokenizer = load_any(model)
    chosen = read_texts(texts, Columns(label=None)).head(20)
    batches = [b.inputs for b in kdnative.data.Batches(kdnative.data.tokenize(chosen, tokenizer, 64), 32)]
    kdnative.convert_(plain, "w4a8-g32", calibration=batches, method="gptq")
    with torch.no_grad():
        answers = [m(input_ids=ids()).last_hidden_state for m in (kdnative.load(out).eval(), plain)]
    assert torch.equal(*answers)


@pytest.mark.parametrize(("scheme", "method"), [("w2a8-g32", "hqq"), ("w2a8-g32", "rtn"), ("w4a8-g32", "hqq")])
def test_methods_without_data(model, tmp_path, scheme, method):
    assert main(["convert", str(model), str(tmp_path / "out"), "--scheme", scheme, "--method", method]) == 0
    plain, _ = load_any(model)
    kdnative.convert_(plain, scheme, method=method)
    with torch.no_grad():
        answers = [m(input_ids=ids()).last_hidden_state for m in (kdnative.load(tmp_path / "out").eval(), plain)]
    assert torch.equal(*answers)


@pytest.mark.parametrize(("name", "between"), [("rows.csv", ","), ("rows.csv", ";"), ("rows.tsv", "\t")])
def test_a_column_of_a_file(capsys, model, tmp_path, name, between):
    file = tmp_path / name
    rows = [f"{i}{between}{text}\n" for i, (text, _) in enumerate(sentences(20, 4))]
    file.write_text(f"id{between}review\n" + "".join(rows))
    arguments = ["convert", str(model), str(tmp_path / "out"), "--calibrate", str(file), "--column", "review"]
    assert main(arguments) == 0  # w8a8: SmoothQuant
    assert "loss: not measured, because all 20 texts of" in capsys.readouterr().out


def test_two_parts_share_no_text(texts):
    first, second = two_parts(texts, "text", 25)
    assert len(first) == len(second) == 25
    assert not {e.fields["text"] for e in first} & {e.fields["text"] for e in second}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "gptq"], "--method gptq needs texts to calibrate on: add --calibrate FILE"),
        (["--method", "gpqt"], "unknown method 'gpqt'; did you mean 'gptq'?"),
        (
            ["--scheme", "w2a8-g32"],
            "rounding to nearest in w2a8-g32 destroys most of a model's accuracy: add --calibrate FILE",
        ),
        (["--calibrate", "absent.txt"], "absent.txt"),
        (["--calibrate", "TEXTS", "--texts", "0"], "--texts must be at least 1, got 0"),
        (["--calibrate", "EMPTY"], "no texts"),
        (
            ["--calibrate", "TABLE"],
            "has no column 'text': name the text column with --column; the file has 'id', 'review'",
        ),
        (["--column", "review"], "--column review needs --calibrate FILE: add it"),
        (["--texts", "64"], "--texts 64 needs --calibrate FILE"),
    ],
)
def test_refused_in_words(capsys, model, texts, tmp_path, arguments, words):
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "table.csv").write_text("id,review\n1,a lovely film\n")
    files = {"TEXTS": texts, "EMPTY": tmp_path / "empty.txt", "TABLE": tmp_path / "table.csv"}
    given = [str(files.get(word, word)) for word in arguments]
    assert main(["convert", str(model), str(tmp_path / "out"), *given]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_four_bits_without_texts_warn(capsys, model, tmp_path):
    assert main(["convert", str(model), str(tmp_path / "out"), "--scheme", "w4a8-g32"]) == 0
    warned = capsys.readouterr().err
    assert "kdnative: warning: weights in w4a8-g32 are rounded to nearest" in warned and "--calibrate FILE" in warned


def test_the_loss_is_that_of_the_embeddings(model, texts):
    """Against cosines and neighbours that are computed one by one."""
    plain, tokenizer = load_any(model)
    chosen = read_texts(texts, Columns(label=None)).head(12)
    batches = batches_of(chosen, plain, tokenizer)
    loss = Loss(plain, batches)

    def embedded(model):
        rows = []
        with torch.no_grad():
            for batch in batches:
                hidden = model(**batch).last_hidden_state.double()
                for i, mask in enumerate(batch["attention_mask"]):
                    rows.append(hidden[i, mask.bool()].mean(0))
        return rows

    before = embedded(plain)
    kdnative.convert_(plain, "w2a8-g32", method="rtn")
    after = embedded(plain)

    def cosine(a, b):
        return float(a @ b / a.norm() / b.norm())

    def nearest(rows):
        return [max((j for j in range(12) if j != i), key=lambda j: cosine(rows[i], rows[j])) for i in range(12)]

    moved = sum(1 - cosine(a, b) for a, b in zip(before, after, strict=True)) / 12
    same = sum(a == b for a, b in zip(nearest(before), nearest(after), strict=True)) / 12
    assert loss(plain) == f"mean of 1 - cosine {moved:.4g}, {100 * same:.1f} % keep their nearest neighbour"


def test_a_model_that_takes_a_dictionary():
    class SentenceTransformer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = torch.nn.Linear(32, 16)

        def forward(self, features):
            return {"sentence_embedding": self.dense(features["x"])}

    model, batches = SentenceTransformer(), [{"x": torch.randn(20, 32)}]
    found = kdnative.calibrate_(model, "w8a8", batches, method="clip")
    assert found.rows[0].rows == 19  # and one that measures
    loss = Loss(model, batches)
    kdnative.convert_(model, "w8a8", calibration=found)
    assert "1 - cosine" in loss(model)
