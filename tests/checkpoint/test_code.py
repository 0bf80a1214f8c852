"""A checkpoint never has code run, a connection opened or a question asked, whatever its description says."""

import json
import os
import subprocess
import sys

import pytest
import torch

from kdnative.checkpoint import CheckpointError, inspect, load, save
from kdnative.convert import convert_
from tests.checkpoint.hostile_manifests import HOSTILE
from tests.small_models import bert

CASES = ["the folder's own code", "the folder's own code, asked for", *HOSTILE]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("hostile")
    save(convert_(bert()).model, place / "m")
    command = [sys.executable, "-m", "tests.checkpoint.run_hostile", str(place / "m")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["."] + sys.path)}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # nothing but kdnative is to keep it from the network
        environment.pop(name, None)
    done = subprocess.run(
        command, input="y\n" * 500, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULTS ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(lines[0].removeprefix("RESULTS "))


@pytest.mark.parametrize("case", CASES)
def test_hostile_descriptions(results, case):
    found = results[case]
    assert not found["code"] and not found["seen"], found
    assert found["said"].startswith("refused: "), found["said"]
    assert len(found["said"]) < 1000 and found["said"].replace("\n", "").isprintable()


def test_models_that_are_not_on_the_list_need_into(tmp_path):
    transformers = pytest.importorskip("transformers")

    def model():
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
        sizes = {"d_model": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
        return transformers.FSMTModel(
            transformers.FSMTConfig(**heads, **sizes, src_vocab_size=50, tgt_vocab_size=50)
        ).eval()

    save(convert_(model()).model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    with pytest.raises(CheckpointError, match=r"can't be rebuilt from a file, because .* load\(path, into=model\)"):
        load(tmp_path / "m")
    load(tmp_path / "m", into=model())


@pytest.mark.parametrize(
    "setting", [{"_attn_implementation": "flash_attention_2"}, {"backbone_config": {"model_type": "x"}}]
)
def test_configurations_that_are_not_built_need_into_too(tmp_path, setting):
    """Said when it is saved: nothing is written that `load` would have to refuse."""
    model = convert_(bert()).model
    for name, value in setting.items():
        setattr(model.config, name, value)
    save(model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    with pytest.raises(CheckpointError, match=r"its (attention|configuration)|it sets backbone_config"):
        load(tmp_path / "m")
    other = bert(seed=2)
    assert load(tmp_path / "m", into=other) is other and other.bert.config is other.config
    inputs = torch.randint(200, (2, 9))
    with torch.inference_mode():
        assert torch.equal(other(inputs).logits, model(inputs).logits)
    if "backbone_config" not in setting:
        return  # an encoder alone does not say how attention is computed
    save(model.bert, tmp_path / "encoder")
    with pytest.raises(CheckpointError, match=r"can't be rebuilt|its attention|it sets"):
        load(tmp_path / "encoder")
    load(tmp_path / "encoder", into=bert(seed=2).bert)
