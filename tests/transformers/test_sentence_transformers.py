"""Native students in sentence-transformers: standard modules, its own files, encode with all its options."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

st = pytest.importorskip("sentence_transformers")

import kdnative as kd  # noqa: E402
import kdnative.transformers  # noqa: E402
from tests.small_models import bert  # noqa: E402
from tests.transformers.students import TEXTS, tokenizer  # noqa: E402

PAIRS = [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[0]), (TEXTS[3], TEXTS[3])]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("float")
    for kind, name in (("BertModel", "encoder"), ("BertForSequenceClassification", "pairs")):
        bert(seed=3, kind=kind, num_labels=1).save_pretrained(place / name)
        tokenizer().save_pretrained(place / name)
    try:
        from sentence_transformers.models import Normalize, Pooling, Transformer
    except ImportError:
        from sentence_transformers.base.modules import Normalize, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling
    words = Transformer(str(place / "encoder"))
    parts = [words, Pooling(64, pooling_mode="mean"), Normalize()]
    model = st.SentenceTransformer(modules=parts, device="cpu", prompts={"query": "a "})
    model.save_pretrained(str(place / "float"))
    kd.convert_(model, "w8a8")
    model.save_pretrained(str(place / "native"))
    return place


@pytest.fixture
def native(folders):
    return st.SentenceTransformer(str(folders / "native"), device="cpu")


def test_the_folder_is_one_of_sentence_transformers(folders):
    names = {file.name for file in (folders / "native").iterdir()}
    assert {"modules.json", "config.json", "kdnative.json", "1_Pooling", "2_Normalize"} <= names
    assert not (folders / "native" / "model.safetensors").exists()
    for part in json.loads((folders / "native" / "modules.json").read_text()):
        assert part["type"].startswith("sentence_transformers.")


def test_saved_and_loaded_again(folders, native, tmp_path):
    model = st.SentenceTransformer(str(folders / "float"), device="cpu")
    expected = model.encode(TEXTS)
    report = kd.convert_(model, "w8a8")
    assert "fused" in str(report)
    converted = model.encode(TEXTS)
    assert not np.array_equal(converted, expected) and (converted * expected).sum(1).min() > 0.99
    np.testing.assert_array_equal(native.encode(TEXTS), converted)
    native.save_pretrained(str(tmp_path / "again"))
    again = st.SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), converted)
    np.testing.assert_array_equal(copy.deepcopy(again).encode(TEXTS), converted)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt_name": "query"},
        {"prompt": "the "},
        {"normalize_embeddings": True, "batch_size": 1},
        {"convert_to_tensor": True},
        {"output_value": "token_embeddings"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_encode(folders, native, options):
    """As the same model that was converted in this process and never saved."""
    model = st.SentenceTransformer(str(folders / "float"), device="cpu")
    kd.convert_(model, "w8a8")
    for a, b in zip(native.encode(TEXTS, **options), model.encode(TEXTS, **options), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    if "prompt_name" in options:
        assert not np.array_equal(native.encode(TEXTS, **options), native.encode(TEXTS))


@pytest.mark.parametrize("dim", [64, 32, 8])
def test_matryoshka_dimensions(folders, dim):
    whole = st.SentenceTransformer(str(folders / "native"), device="cpu").encode(TEXTS)
    short = st.SentenceTransformer(str(folders / "native"), device="cpu", truncate_dim=dim).encode(TEXTS)
    np.testing.assert_array_equal(short, whole[:, :dim])


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_precisions_of_embeddings(native, precision):
    try:
        from sentence_transformers.util import quantize_embeddings
    except ImportError:  # sentence-transformers 5
        from sentence_transformers.quantization import quantize_embeddings

    texts = TEXTS * 30
    embeddings = native.encode(texts)
    found = native.encode(texts, precision=precision)
    np.testing.assert_array_equal(found, quantize_embeddings(embeddings, precision=precision))
    assert found.dtype == (np.uint8 if precision.startswith("u") else np.int8)


def test_several_processes(folders):
    """In a program of its own, whose children are spawned."""
    code = f"""
import kdnative.transformers, numpy as np, sentence_transformers as st
if __name__ == "__main__":
    model = st.SentenceTransformer({str(folders / "native")!r}, device="cpu")
    texts = {TEXTS * 5!r}
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    found = model.encode(texts, pool=pool, chunk_size=4)
    model.stop_multi_process_pool(pool)
    print("equal", np.array_equal(found, model.encode(texts)))
"""
    program = folders / "program.py"
    program.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "equal True" in done.stdout, done.stderr


def test_its_evaluators(native):
    from sentence_transformers.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator

    scores = [0.1, 0.9, 0.5]
    first, second = TEXTS[:3], [TEXTS[1], TEXTS[0], TEXTS[3]]
    found = EmbeddingSimilarityEvaluator(first, second, scores, write_csv=False)(native)
    assert all(-1 <= float(value) <= 1 for value in found.values()) and len(found) >= 2
    corpus = {str(i): text for i, text in enumerate(TEXTS)}
    queries, relevant = {"q": TEXTS[2]}, {"q": {"2"}}
    evaluator = InformationRetrievalEvaluator(
        queries, corpus, relevant, write_csv=False, accuracy_at_k=[1], map_at_k=[1]
    )
    assert evaluator(native)["cosine_accuracy@1"] == 1.0


def test_cross_encoder(folders, tmp_path):
    model = st.CrossEncoder(str(folders / "pairs"), device="cpu")
    expected = model.predict(PAIRS)
    kd.convert_(model, "w8a8")
    converted = model.predict(PAIRS)
    np.testing.assert_allclose(converted, expected, atol=0.02)
    assert not np.array_equal(converted, expected)
    model.save_pretrained(str(tmp_path / "native"))
    again = st.CrossEncoder(str(tmp_path / "native"), device="cpu")
    np.testing.assert_array_equal(again.predict(PAIRS), converted)
    ranks = again.rank(TEXTS[0], TEXTS)
    assert [row["corpus_id"] for row in ranks] == [row["corpus_id"] for row in model.rank(TEXTS[0], TEXTS)]


def test_a_checkpoint_of_kdnative_alone(tmp_path):
    """Written by kd.save: mean pooling, as for any encoder of transformers; a classifier is a CrossEncoder."""
    encoder, pairs = bert(kind="BertModel"), bert(num_labels=1)
    kd.convert_(encoder, "w8a8")
    kd.convert_(pairs, "w8a8")
    kd.save(encoder, tmp_path / "encoder", tokenizer=tokenizer())
    kd.save(pairs, tmp_path / "pairs", tokenizer=tokenizer())
    found = st.SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(TEXTS[:1])
    with torch.inference_mode():
        states = encoder(**tokenizer()(TEXTS[:1], return_tensors="pt")).last_hidden_state
        logit = pairs(**tokenizer()([PAIRS[0]], return_tensors="pt")).logits
    np.testing.assert_allclose(found, states.mean(1).numpy(), rtol=1e-5, atol=1e-6)
    score = st.CrossEncoder(str(tmp_path / "pairs"), device="cpu").predict(PAIRS[:1])
    np.testing.assert_allclose(score, torch.sigmoid(logit)[0].numpy(), rtol=1e-6)


def test_the_command_converts_a_whole_folder(folders, tmp_path, capsys):
    from kdnative.cli import main

    assert main(["convert", str(folders / "float"), str(tmp_path / "out")]) == 0
    assert f"SentenceTransformer({str(tmp_path / 'out')!r})" in capsys.readouterr().out
    found = st.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS)
    np.testing.assert_array_equal(found, st.SentenceTransformer(str(folders / "native"), device="cpu").encode(TEXTS))
