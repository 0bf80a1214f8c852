"""Loading a student and computing with it opens no socket, whatever its task is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdnative.checkpoint import save
from kdnative.convert import convert_
from kdnative.nn import ImageInput
from tests.convnets import small
from tests.small_models import bert

pytest.importorskip("transformers")
image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).parents[2]
OPENED = ["socket", "create_connection", "getaddrinfo", "urlopen", "huggingface_hub"]


def text():
    ids = torch.randint(1, 200, (2, 9))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def pair():
    """Two texts in a row."""
    return {**text(), "token_type_ids": torch.tensor([[0] * 5 + [1] * 4] * 2)}


def gpt_neo():
    import transformers

    sizes = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
    torch.manual_seed(0)
    config = transformers.GPTNeoConfig(**sizes, vocab_size=200, max_position_embeddings=64, window_size=8)
    return transformers.GPTNeoForCausalLM(config).eval()


STUDENTS = {  # the model, how it is quantized, its inputs
    "text classification": (bert, "w8a8", text),
    "text regression": (lambda: bert(num_labels=1, problem_type="regression"), "w8a8", text),
    "pair classification": (bert, "w8a8", pair),
    "embeddings": (lambda: bert(kind="BertModel"), "w8a8", text),
    "a module that looks for kernels when it is imported": (gpt_neo, "w8a8", text),
    "4 bits": (bert, "w4a16-g64", text),
}
IMAGES = "image classification"


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """``(folder of checkpoints, what each answers)``."""
    place, answers = tmp_path_factory.mktemp("students"), {}
    for name, (build, scheme, inputs) in STUDENTS.items():
        model, given = convert_(build(), scheme).model, inputs()
        save(model, place / name)
        torch.save(given, place / name / "inputs.pt")
        with torch.inference_mode():
            found = model(**given)
        answers[name] = found.logits if hasattr(found, "logits") else found.last_hidden_state
    net = small()
    net.preprocess = ImageInput((12, 10), classes=("cat", "dog", "bird"))
    save(net, place / IMAGES)
    image.radial_gradient("L").convert("RGB").save(place / IMAGES / "picture.png")
    torch.save("picture.png", place / IMAGES / "inputs.pt")
    answers[IMAGES] = net(net.preprocess(place / IMAGES / "picture.png"))
    return place, answers


@pytest.fixture(scope="module")
def results(expected):
    """What one fresh process found that had nothing but the guard to keep it from the network."""
    command = [sys.executable, "-m", "tests.checkpoint.load_without_sockets", str(expected[0])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("RESULTS ")[2])


@pytest.mark.parametrize("name", [*STUDENTS, IMAGES])
def test_a_student_opens_no_socket(results, expected, name):
    assert results[name]["tried"] == []
    assert torch.equal(torch.tensor(results[name]["answer"]), expected[1][name].float())


@pytest.mark.parametrize("name", OPENED)
def test_the_guard_sees_a_socket(results, name):
    assert results[name]["tried"]
