"""Programs that do not know kdnative, on its checkpoints: they must fail, not fill layers with random weights."""

import subprocess
import sys

import pytest

from kdnative.checkpoint import save
from kdnative.convert import convert_
from tests.pipeline.conftest import write_model
from tests.small_models import bert

CALLS = {
    "classifier": "transformers.AutoModelForSequenceClassification.from_pretrained(folder)",
    "own class": "transformers.BertForSequenceClassification.from_pretrained(folder)",
    "encoder": "transformers.AutoModel.from_pretrained(folder)",
    "pipeline": "transformers.pipeline('text-classification', model=folder)",
    "pipeline with tokenizer": "transformers.pipeline('text-classification', model=folder, tokenizer=folder)",
    "sentence-transformers": "__import__('sentence_transformers').SentenceTransformer(folder, device='cpu')",
    "cross-encoder": "__import__('sentence_transformers').CrossEncoder(folder, device='cpu')",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("strangers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(write_model(place / "source"))
    model = bert(vocab_size=len(tokenizer))
    save(convert_(model).model, place / "native", tokenizer=tokenizer)
    return place / "native"


@pytest.mark.parametrize("call", CALLS)
def test_they_fail(folder, call):
    if "sentence_transformers" in CALLS[call]:
        pytest.importorskip("sentence_transformers")
    program = f"import sys, transformers; folder = sys.argv[1]; model = {CALLS[call]}; print('LOADED', type(model))"
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(folder.parent)}
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1 and "LOADED" not in done.stdout, done.stdout + done.stderr
    assert "Error" in done.stderr, done.stderr


def test_the_tokenizer_is_found_as_before(folder):
    transformers = pytest.importorskip("transformers")
    words = transformers.AutoTokenizer.from_pretrained(folder)
    again = transformers.AutoTokenizer.from_pretrained(folder.parent / "source")
    assert words("the film was good")["input_ids"] == again("the film was good")["input_ids"]
