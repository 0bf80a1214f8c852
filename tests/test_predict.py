"""``kdnative predict``: every kind of input and output, and what is said of input that can't be read."""

from __future__ import annotations

import csv
import importlib
import io
import json
import random
import re
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import kdnative
from kdnative import predict
from kdnative.cli import main
from kdnative.predict.rows import Rejected, read_rows
from tests.convnets import small
from tests.small_models import bert

transformers = pytest.importorskip("transformers")
WORDS = [f"w{i}" for i in range(40)]
MIXED = ["w1", "w2 w3 w4 w5 w6 w7 w8 w9 w10 w11", "w12 w13", "w14 w15 w16 w17 w18 w19 w20", "w21 w22 w23"]
LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good"}}


def tokenizer_of(words=WORDS):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *words])}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **names)


def native(folder: Path, **settings) -> Path:
    model = bert(**{**LABELS, **settings})
    kdnative.convert_(model, "w8a8")
    kdnative.save(model, folder, tokenizer=tokenizer_of())
    return folder


def floats(folder: Path, **settings) -> Path:
    bert(**{**LABELS, **settings}).save_pretrained(folder)
    tokenizer_of().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return native(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def float_student(tmp_path_factory):
    return floats(tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A native network for pictures, and a folder of three of these."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    network = small()
    network.preprocess = kdnative.nn.ImageInput(size=(16, 16), classes=("cat", "dog", "owl"))
    kdnative.save(network, folder / "student")
    (folder / "files").mkdir()
    generator = np.random.default_rng(0)
    for name in "abc":
        pixels = generator.integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "files" / f"{name}.png")
    return folder


def ran(capsys, *arguments) -> list[dict]:
    """What a call that succeeds prints, as rows."""
    assert main(["predict", *map(str, arguments)]) == 0, capsys.readouterr().err
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def fails(capsys, *arguments) -> str:
    """What a call that must fail prints on stderr."""
    code = main(["predict", *map(str, arguments)])
    found = capsys.readouterr()
    assert code == 2 and found.out == "" and "Traceback" not in found.err
    assert found.err.startswith("kdnative: ") and found.err.count("\n") == 1
    return found.err


@torch.inference_mode()
def logits_of(folder: Path, *texts: str) -> torch.Tensor:
    """Of one text or pair, alone."""
    inputs = tokenizer_of()(*texts, return_tensors="pt")
    return kdnative.load(folder)(**inputs).logits[0]


def shuffled(count: int) -> list[str]:
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 50))) for _ in range(count)]


# -- what is predicted -------------------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_text_alone_bit_for_bit(capsys, student):
    texts = shuffled(50)
    rows = ran(capsys, student, *texts, "--batch-size", 16)
    assert [row["text"] for row in rows] == texts
    for row in rows:
        shares = logits_of(student, row["text"]).softmax(-1)
        assert row["scores"] == {LABELS["id2label"][i]: float(shares[i]) for i in range(3)}
        assert row["label"] == LABELS["id2label"][int(shares.argmax())] and row["score"] == float(shares.max())
        assert list(row["scores"].values()) == sorted(row["scores"].values(), reverse=True)
    assert len({row["score"] for row in rows}) > 40  # and they are not all the same


@pytest.mark.parametrize("options", [("--batch-size", 1), ("--batch-size", 7), ("--threads", 2), ("--threads", 1)])
def test_batches_and_threads_change_nothing(capsys, student, monkeypatch, options):
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    texts = shuffled(30)
    assert ran(capsys, student, *texts, *options) == ran(capsys, student, *texts)
    if options[0] == "--threads":
        assert torch.get_num_threads() == options[1]


def test_windows_keep_the_order(student, monkeypatch, capsys):
    whole = ran(capsys, student, *shuffled(30))
    monkeypatch.setattr(predict, "_WINDOW", 7)
    assert ran(capsys, student, *shuffled(30)) == whole


def test_pairs(capsys, student, tmp_path):
    one = ran(capsys, student, "w1 w2", "--text-pair", "w3 w4 w5")
    shares = logits_of(student, "w1 w2", "w3 w4 w5").softmax(-1)
    assert one[0]["score"] == float(shares.max()) and one[0]["text_pair"] == "w3 w4 w5"
    assert float(shares.max()) != float(logits_of(student, "w1 w2 w3 w4 w5").softmax(-1).max())
    file = tmp_path / "pairs.csv"
    file.write_text("a,b\nw1 w2,w3 w4 w5\nw9,w8\n")
    rows = ran(capsys, student, "--input", file, "--column", "a", "--pair-column", "b")
    assert rows[0]["scores"] == one[0]["scores"] and rows[1]["a"] == "w9" and rows[1]["b"] == "w8"
    assert rows[1]["score"] == float(logits_of(student, "w9", "w8").softmax(-1).max())


def test_regression(capsys, tmp_path):
    folder = native(tmp_path / "n", num_labels=1, id2label={0: "value"})
    rows = ran(capsys, folder, *MIXED)
    assert [row["score"] for row in rows] == [float(logits_of(folder, text)) for text in MIXED]
    assert all(row.keys() == {"text", "score"} for row in rows)
    assert "--top 1: it is about classes" in fails(capsys, folder, "w1", "--top", 1)


def test_several_labels(capsys, tmp_path):
    folder = native(tmp_path / "n", problem_type="multi_label_classification")
    for row in ran(capsys, folder, *MIXED):
        shares = logits_of(folder, row["text"]).double().sigmoid()
        assert row["scores"] == {LABELS["id2label"][i]: float(shares[i].float()) for i in shares.argsort().tolist()}
        assert row["labels"] == [LABELS["id2label"][i] for i in range(3) if shares[i] >= 0.5]
        assert row["label"] == LABELS["id2label"][int(shares.argmax())]


def test_top(capsys, student):
    whole = ran(capsys, student, *MIXED)
    for row, all_classes in zip(ran(capsys, student, "--top", 2, *MIXED), whole, strict=True):
        assert list(row["scores"].items()) == list(all_classes["scores"].items())[:2]


def test_a_float_folder_as_it_is_and_converted(capsys, student, float_student):
    exact = ran(capsys, float_student, *MIXED)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(float_student).eval()
    for row in exact:
        with torch.no_grad():
            shares = model(**tokenizer_of()(row["text"], return_tensors="pt")).logits[0].softmax(-1)
        assert row["score"] == pytest.approx(float(shares.max()), abs=1e-5)
    assert ran(capsys, float_student, *MIXED, "--scheme", "w8a8") == ran(capsys, student, *MIXED) != exact
    assert "native already: leave --scheme w8a8 out" in fails(capsys, student, "w1", "--scheme", "w8a8")
    assert "w99" in fails(capsys, float_student, "w1", "--scheme", "w99")


def test_long_texts_are_cut_with_a_warning(capsys, student):
    long = " ".join(["w1", "w2"] * 50_000)
    assert main(["predict", str(student), long, "w3", " ".join(["w4"] * 62)]) == 0
    found = capsys.readouterr()
    assert found.err == "kdnative: warning: 1 of 3 texts had more than 64 tokens and were cut (--max-length)\n"
    assert (
        json.loads(found.out.splitlines()[0])["scores"]
        == ran(capsys, student, " ".join(["w1", "w2"] * 31))[0]["scores"]
    )
    assert main(["predict", str(student), "w1 w2 w3", "w3", "--max-length", "4"]) == 0
    found = capsys.readouterr()
    assert "1 of 2 texts had more than 4 tokens" in found.err
    assert json.loads(found.out.splitlines()[0])["score"] == ran(capsys, student, "w1 w2")[0]["score"]
    assert "reads 3 to 64 tokens" in fails(capsys, student, "w1", "--max-length", 65)


def test_positions_of_roberta(capsys, tmp_path):
    config = transformers.RobertaConfig(vocab_size=60, hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
                                        intermediate_size=64, max_position_embeddings=34, pad_token_id=1)  # fmt: skip
    model = transformers.RobertaForSequenceClassification(config).eval()
    kdnative.convert_(model, "w8a8")
    kdnative.save(model, tmp_path / "n", tokenizer=tokenizer_of())
    assert main(["predict", str(tmp_path / "n"), " ".join(["w1"] * 500)]) == 0
    assert "more than 32 tokens" in capsys.readouterr().err


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_pictures(capsys, pictures, tmp_path):
    files = sorted((pictures / "files").iterdir())
    rows = ran(capsys, pictures / "student", pictures / "files", "--batch-size", 2)
    model = kdnative.load(pictures / "student")
    assert [row["path"] for row in rows] == [str(file) for file in files]
    for row in rows:
        shares = model(model.preprocess(row["path"]))[0].softmax(-1)
        assert row["scores"] == {("cat", "dog", "owl")[i]: float(shares[i]) for i in range(3)}
    assert ran(capsys, pictures / "student", *files) == rows
    assert ran(capsys, pictures / "student", "--input", pictures / "files") == rows
    older = shutil.copytree(pictures / "student", tmp_path / "older")
    (older / "config.json").unlink()
    assert ran(capsys, older, *files) == rows


def test_a_picture_that_is_none(capsys, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    good = pictures / "files" / "a.png"
    assert f"{broken}: not a picture" in fails(capsys, pictures / "student", good, broken)
    assert "absent.png: no such file" in fails(capsys, pictures / "student", "absent.png")
    file = tmp_path / "list.csv"
    file.write_text(f"path,id\n{good},1\n{broken},2\nabsent.png,3\n{good},4\n")
    assert f"{file}, line 3: {broken}: not a picture" in fails(capsys, pictures / "student", "--input", file)
    assert main(["predict", str(pictures / "student"), "--input", str(file), "--skip-bad"]) == 0
    found = capsys.readouterr()
    assert [json.loads(line)["id"] for line in found.out.splitlines()] == ["1", "4"]
    assert found.err == "kdnative: warning: rows left out, which can't be read: 2\n"
    assert "none of its 1 rows can be read" in fails(capsys, pictures / "student", broken, "--skip-bad")
    (tmp_path / "empty").mkdir()
    assert "a folder without pictures" in fails(capsys, pictures / "student", tmp_path / "empty")


def test_an_image_classifier_of_transformers(capsys, pictures, tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
                                    image_size=32, patch_size=8, **LABELS)  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    from PIL import Image

    for row in ran(capsys, tmp_path, pictures / "files"):
        inputs = processor(images=Image.open(row["path"]), return_tensors="pt")
        with torch.no_grad():
            shares = model(**inputs).logits[0].softmax(-1)
        assert row["score"] == pytest.approx(float(shares.max()), abs=1e-4)
        assert row["label"] == LABELS["id2label"][int(shares.argmax())]


# -- embeddings --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """The folder of a float sentence-transformers model."""
    library = pytest.importorskip("sentence_transformers")
    folder = tmp_path_factory.mktemp("embedder")
    floats(folder / "encoder", kind="BertModel")
    library.SentenceTransformer(str(folder / "encoder"), device="cpu").save(str(folder / "whole"))
    return folder


def test_embeddings_in_every_format(capsys, embedder, tmp_path):
    import sentence_transformers

    texts = shuffled(20)
    wanted = sentence_transformers.SentenceTransformer(str(embedder / "whole"), device="cpu").encode(texts)
    for folder in (embedder / "whole", embedder / "encoder"):  # a bare encoder: the mean of its tokens
        rows = ran(capsys, folder, *texts)
        assert np.allclose([row["embedding"] for row in rows], wanted, atol=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "_WINDOW", 6)  # the header of .npy grows
        assert ran(capsys, embedder / "whole", *texts, "--output", tmp_path / "e.npy") == []
    found = np.load(tmp_path / "e.npy")
    assert found.dtype == np.float32 and found.shape == wanted.shape and np.allclose(found, wanted, atol=1e-6)
    pyarrow = pytest.importorskip("pyarrow.parquet")
    ran(capsys, embedder / "whole", *texts, "--output", tmp_path / "e.parquet")
    table = pyarrow.read_table(tmp_path / "e.parquet").to_pydict()
    assert table["text"] == texts and np.allclose(table["embedding"], wanted, atol=1e-6)
    ran(capsys, embedder / "whole", *texts, "--output", tmp_path / "e.csv")
    cells = list(csv.DictReader((tmp_path / "e.csv").open()))
    assert np.allclose([json.loads(cell["embedding"]) for cell in cells], wanted, atol=1e-6)
    converted = [row["embedding"] for row in ran(capsys, embedder / "whole", *texts, "--scheme", "w8a8")]
    assert np.allclose(converted, wanted, atol=0.2) and not np.allclose(converted, wanted, atol=1e-6)


def test_embeddings_of_long_texts(capsys, embedder):
    assert main(["predict", str(embedder / "whole"), " ".join(["w1"] * 500), "w2"]) == 0
    assert "1 of 2 texts had more than 64 tokens" in capsys.readouterr().err
    assert main(["predict", str(embedder / "whole"), "w1 w2 w3", "--max-length", "4"]) == 0
    found = capsys.readouterr()
    assert "1 of 1 texts had more than 4 tokens" in found.err
    short = ran(capsys, embedder / "whole", "w1 w2")[0]["embedding"]
    assert np.allclose(json.loads(found.out)["embedding"], short, atol=1e-6)
    assert "reads at most 64 tokens" in fails(capsys, embedder / "whole", "w1", "--max-length", 65)


@pytest.mark.parametrize("kind", ["encoder", "whole"])
def test_embeddings_of_a_native_folder(capsys, embedder, tmp_path, kind):
    if kind == "encoder":
        model = transformers.AutoModel.from_pretrained(embedder / "encoder").eval()
    else:
        model = importlib.import_module("sentence_transformers").SentenceTransformer(
            str(embedder / "whole"), device="cpu"
        )
    kdnative.convert_(model, "w8a8")
    if kind == "encoder":
        kdnative.save(model, tmp_path / "n", tokenizer=tokenizer_of())
    else:
        model.save_pretrained(str(tmp_path / "n"))
    wanted = ran(capsys, embedder / "encoder", *MIXED, "--scheme", "w8a8")
    rows = ran(capsys, tmp_path / "n", *MIXED)
    assert [row["text"] for row in rows] == MIXED
    assert np.allclose([r["embedding"] for r in rows], [w["embedding"] for w in wanted], atol=1e-6)


def test_npy_is_for_embeddings(capsys, student, tmp_path):
    assert ".npy is for embeddings" in fails(capsys, student, "w1", "--output", tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []


# -- input and output --------------------------------------------------------------------------------------------------

COLUMNS = {"id": ["1", "2", "3", "4", "5"], "text": MIXED}


def write_input(path: Path, columns=COLUMNS) -> Path:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".txt":
        path.write_text("\ufeff" + "\r\n".join(columns["text"]))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            out = csv.DictWriter(file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
            out.writeheader()
            out.writerows(rows)
    return path


def read_output(path: Path) -> list[dict]:
    if path.suffix == ".parquet":
        rows = importlib.import_module("pyarrow.parquet").read_table(path).to_pylist()
        return [{**row, "scores": dict(row["scores"])} for row in rows]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, **options))
    return [{**row, "score": float(row["score"]), "scores": json.loads(row["scores"])} for row in rows]


@pytest.mark.parametrize("kind", predict.request.INPUTS)
def test_every_kind_of_input(capsys, student, tmp_path, kind):
    rows = ran(capsys, student, "--input", write_input(tmp_path / f"in{kind}"))
    predicted = ran(capsys, student, *MIXED)
    kept = {} if kind == ".txt" else {"id": None}
    assert rows == [{**{name: str(i) for name in kept}, **row} for i, row in enumerate(predicted, 1)]
    assert list(rows[0]) == [*kept, "text", "label", "score", "scores"]


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_output(capsys, student, tmp_path, kind, monkeypatch):
    if kind == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(predict, "_WINDOW", 2)
    file, out = write_input(tmp_path / "in.csv"), tmp_path / f"out{kind}"
    assert ran(capsys, student, "--input", file, "--output", out) == []
    predicted = ran(capsys, student, "--input", file)
    assert read_output(out) == predicted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", out.name]


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_columns_that_the_input_has_already_stay(capsys, student, tmp_path, kind):
    file = write_input(tmp_path / "in.csv", {**COLUMNS, "label": list("abcde"), "score": list("12345")})
    out = tmp_path / f"out{kind}"
    ran(capsys, student, "--input", file, "--output", out)
    if kind == ".parquet":
        rows = importlib.import_module("pyarrow.parquet").read_table(out).to_pylist()
    else:
        rows = list(csv.DictReader(out.open())) if kind == ".csv" else read_output(out)
    predicted = ran(capsys, student, *MIXED)
    for row, label, plain in zip(rows, "abcde", predicted, strict=True):
        assert row["label"] == label and row["predicted_label"] == plain["label"]
        assert float(row["predicted_score"]) == plain["score"] and "predicted_scores" not in row


def test_columns_that_only_some_rows_have(capsys, student, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "w1", "n": [1]}\n{"text": "w2", "more": 2}\n')
    rows = ran(capsys, student, "--input", file)
    assert rows[0]["n"] == [1] and rows[1]["more"] == 2 and "n" not in rows[1]
    text = fails(capsys, student, "--input", file, "--output", tmp_path / "out.csv")
    assert "a row has 'more', and the first one has not: write a .jsonl file" in text
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    ran(capsys, student, "--input", file, "--output", tmp_path / "out.parquet")


def test_a_tab_in_a_tsv(capsys, student, tmp_path):
    text = fails(capsys, student, "w1\tw2", "--output", tmp_path / "out.tsv")
    assert "can't be written as .tsv" in text and list(tmp_path.iterdir()) == []


def test_quoted_fields(capsys, student, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text('text,note\n"w1 ""w2"",\nw3",x\nw4,"a,b"\n')
    rows = ran(capsys, student, "--input", file)
    assert [(row["text"], row["note"]) for row in rows] == [('w1 "w2",\nw3', "x"), ("w4", "a,b")]


def stdin_of(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("dash", [(), ("-",)])
def test_standard_input(capsys, student, monkeypatch, dash):
    stdin_of(monkeypatch, "\n".join(MIXED).encode())
    rows = ran(capsys, student, *dash)
    assert rows == ran(capsys, student, *MIXED)
    stdin_of(monkeypatch, b"w1\n\nw2\n")
    assert "standard input, line 2: the text is empty" in fails(capsys, student, *dash)
    stdin_of(monkeypatch, b"")
    assert "standard input: it has no rows" in fails(capsys, student, *dash)


def test_the_table_of_a_terminal(capsys, student, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["predict", str(student), "w1 \x1b[31m", "w2 " * 60]) == 0
    first, second = capsys.readouterr().out.splitlines()
    others = r"(bad|fair|good) 0\.\d{4}  (bad|fair|good) 0\.\d{4}"
    assert re.fullmatch(rf"(bad|fair|good) +0\.\d{{4}}  {others} +w1 \\x1b\[31m", first)
    assert second.endswith("w2 w2 w2...")
    assert first.index("w1") == second.index("w2")


def test_texts_may_follow_options(capsys, student):
    assert ran(capsys, student, "--top", 1, "w1")[0]["text"] == "w1"
    assert ran(capsys, student, "--top", 1, "--", "-w1")[0]["text"] == "-w1"


# -- rows that can't be read -------------------------------------------------------------------------------------------

BROKEN = {
    "fields.csv": ("text,id\nw1,1\nw2\nw3,3\n", "line 3: 1 columns, but the header has 2"),
    "quotes.csv": ('text,id\nw1,1\n"w2"x,2\nw3,3\n', "line 3: ',' expected after '\"'"),
    "fields.tsv": ("text\tid\nw1\t1\nw2\t2\t2\nw3\t3\n", "line 3: 3 columns, but the header has 2"),
    "empty.csv": ("text,id\nw1,1\n ,2\nw3,3\n", "line 3: the text is empty"),
    "empty.txt": ("w1\n\nw3\n", "line 2: the text is empty"),
    "bad.jsonl": ('{"text": "w1"}\n{"text": \n{"text": "w3"}\n', "line 2: not JSON that can be read"),
    "list.jsonl": ('{"text": "w1"}\n[1]\n{"text": "w3"}\n', "line 2: a list, but every line must be a JSON object"),
    "column.jsonl": ('{"text": "w1"}\n{"txt": "w2"}\n{"text": "w3"}\n', "line 2: no 'text'; it has 'txt'"),
    "null.jsonl": ('{"text": "w1"}\n{"text": null}\n{"text": "w3"}\n', "line 2: 'text' is null"),
    "number.jsonl": ('{"text": "w1"}\n{"text": 2}\n{"text": "w3"}\n', "line 2: 'text' is no text, but 2"),
    "half.jsonl": ('{"text": "w1"}\n{"text": "\\ud800"}\n{"text": "w3"}\n', "line 2: 'text' holds half a character"),
    "latin.txt": (b"w1\nw\xe9\nw3\n", "line 2: byte 0xe9 is not UTF-8"),
    "latin.csv": (b"text,id\nw1,1\nw\xe9,2\nw3,3\n", "line 3: byte 0xe9 is not UTF-8"),
    "latin.jsonl": (b'{"text": "w1"}\n{"text": "\xe9"}\n{"text": "w3"}\n', "line 2: byte 0xe9 is not UTF-8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_named_or_left_out(capsys, student, tmp_path, name):
    content, words = BROKEN[name]
    file, out = tmp_path / name, tmp_path / "out.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert f"{file}, {words}" in fails(capsys, student, "--input", file, "--output", out)
    assert list(tmp_path.iterdir()) == [file]
    assert main(["predict", str(student), "--input", str(file), "--output", str(out), "--skip-bad"]) == 0
    assert capsys.readouterr().err == "kdnative: warning: rows left out, which can't be read: 1\n"
    assert [row["text"] for row in read_output(out)] == ["w1", "w3"]


def test_a_null_in_a_parquet_file(capsys, student, tmp_path):
    file = write_input(tmp_path / "in.parquet", {"text": ["w1", None, "w3"]})
    assert f"{file}, row 2: 'text' is null" in fails(capsys, student, "--input", file)
    assert len(ran(capsys, student, "--input", file, "--skip-bad")) == 2


def test_a_broken_row_in_a_later_window_leaves_no_file(capsys, student, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "_WINDOW", 2)
    file = tmp_path / "in.txt"
    file.write_text("w1\nw2\nw3\n\n")
    assert "line 4" in fails(capsys, student, "--input", file, "--output", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupt_leaves_the_old_file(capsys, student, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    (tmp_path / "out.jsonl").write_text("old")
    monkeypatch.setattr("kdnative.predict.students._batches", interrupted)
    assert main(["predict", str(student), "w1", "--output", str(tmp_path / "out.jsonl")]) == 1
    assert (tmp_path / "out.jsonl").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


# -- requests and models that can't be served --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", predict.request.INPUTS[:4])
def test_an_empty_file(capsys, student, tmp_path, kind):
    file = tmp_path / f"in{kind}"
    file.write_text("")
    assert f"{file}: it has no rows" in fails(capsys, student, "--input", file, "--output", tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet"])
def test_a_column_that_is_not_there(capsys, student, tmp_path, kind):
    file = write_input(tmp_path / f"in{kind}")
    text = fails(capsys, student, "--input", file, "--column", "txt", "--skip-bad")
    assert f"{file}: no column 'txt'; it has 'id', 'text': name the right one (--column)" in text
    text = fails(capsys, student, "--input", file, "--pair-column", "b")
    assert "no column 'b'; it has 'id', 'text': name the right one (--pair-column)" in text


def test_a_column_twice(capsys, student, tmp_path):
    (tmp_path / "in.csv").write_text("text,id,id\nw1,1,2\n")
    assert "more than once" in fails(capsys, student, "--input", tmp_path / "in.csv")


def test_no_parquet_file(capsys, student, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and more")
    assert "not a Parquet file that can be read" in fails(capsys, student, "--input", tmp_path / "in.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    text = fails(capsys, student, "--input", tmp_path / "in.parquet")
    assert "pyarrow" in text and 'pip install "kdnative[hub]"' in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["w1", "--input", "x.txt"], "not both"),
        (["--input", "x.txt"], "x.txt: no such file"),
        (["--input", "x.docx"], "ends in .txt, .csv, .tsv, .jsonl, .parquet"),
        (["--input", "."], "a folder, and the student reads texts"),
        (["w1", "--output", "x.docx"], "ends in .jsonl, .csv, .tsv, .parquet, .npy"),
        (["w1", "--pair-column", "b"], "give one with --input"),
        (["w1", "w2", "--text-pair", "b"], "goes with one TEXT"),
        (["w1", "--batch-size", "0"], "--batch-size 0: give 1 or more"),
        (["w1", "--top", "0"], "--top 0"),
        (["w1", "--threads", "-1"], "--threads -1"),
        (["w1", "--max-length", "2"], "--max-length 2"),
        ([" "], "text 1: the text is empty"),
    ],
)
def test_wrong_requests(capsys, student, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.docx").write_text("")
    assert words in fails(capsys, student, *arguments)


def test_the_input_is_not_overwritten(capsys, student, tmp_path):
    file = write_input(tmp_path / "in.csv")
    assert "this is the input" in fails(capsys, student, "--input", file, "--output", file)


def test_folders_that_hold_no_student(capsys, student, float_student, tmp_path):
    assert f"{tmp_path / 'no'}: there is no such folder" in fails(capsys, tmp_path / "no", "w1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.onnx").write_text("x")
    assert "there is no model in it" in fails(capsys, tmp_path / "other", "w1")
    shutil.copytree(student, tmp_path / "other" / "student")
    assert f"{tmp_path / 'other' / 'student'} has one" in fails(capsys, tmp_path / "other", "w1")
    (tmp_path / "other" / "config.json").write_text("{")
    assert "config.json: damaged" in fails(capsys, tmp_path / "other", "w1")
    (tmp_path / "other" / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    assert "this is a BertForMaskedLM; predictions are made with" in fails(capsys, tmp_path / "other", "w1")


def test_truncated_weights(capsys, student, float_student, tmp_path):
    for source, pattern, words in [(student, "kdnative-*.safetensors", "kdnative-"),
                                   (float_student, "model.safetensors", "truncated or damaged")]:  # fmt: skip
        folder = shutil.copytree(source, tmp_path / source.name)
        weights = next(folder.glob(pattern))
        weights.write_bytes(weights.read_bytes()[:-1000])
        assert words in fails(capsys, folder, "w1", "--output", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_folder_without_a_tokenizer(capsys, tmp_path):
    kdnative.save(bert(), tmp_path / "n")
    assert "no tokenizer in it" in fails(capsys, tmp_path / "n", "w1")


def test_debug_shows_the_traceback(student):
    with pytest.raises(ValueError, match="text is empty"):
        main(["predict", str(student), "", "--debug"])


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".txt", ".csv", ".jsonl", ".parquet"])
def test_reading_takes_the_memory_of_a_few_rows(tmp_path, kind):
    count, line = 200_000 if kind == ".txt" else 50_000, "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10"
    path = tmp_path / f"in{kind}"
    if kind == ".parquet":
        pa = pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(pa.table({"text": [line] * count}), path)
    elif kind == ".jsonl":
        path.write_text((json.dumps({"text": line}) + "\n") * count)
    else:
        path.write_text("text\n" * (kind == ".csv") + f"{line}\n" * count)
    request = predict.Request("unused", input=str(path))
    sum(1 for _ in zip(range(10), read_rows(request, ["text"], Rejected()), strict=False))  # imports
    tracemalloc.start()
    try:
        read = sum(1 for _ in read_rows(request, ["text"], Rejected()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == count and peak < 2e6  # the texts alone are more than 4 MB
