"""``kdnative bench model``: saved models side by side, and models that it can't time."""

import json

import pytest

from kdnative import convert_, save
from kdnative.bench.model import main
from tests.small_models import bert


def test_models_side_by_side(tmp_path, capsys):
    bert().save_pretrained(tmp_path / "float")
    save(convert_(bert()).model, tmp_path / "native")
    models = [str(tmp_path / "float"), str(tmp_path / "native"), f"{tmp_path / 'float'}@bfloat16"]
    case = ["--batch", "1,2", "--tokens", "4", "--rounds", "2", "--threads", "1"]
    assert main([*models, *case, "--json", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    names = ["float", "native", "float bfloat16"]
    assert [(row["name"], row["batch"]) for row in rows] == [(name, batch) for batch in (1, 2) for name in names]
    assert (
        all(min(row["samples"]) > 0 and len(row["samples"]) == 2 for row in rows)
        and "float bfloat16" in capsys.readouterr().out
    )


def test_a_model_that_takes_no_text_is_refused_by_name(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(
        tmp_path / "vit"
    )
    bert().save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match=r"vit can't be timed: .*take input_ids.*a ViTModel fails with them"):
        main([str(tmp_path / "text"), str(tmp_path / "vit"), "--batch", "1", "--tokens", "4"])
