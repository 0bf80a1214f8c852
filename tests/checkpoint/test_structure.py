"""What a checkpoint knows of a model besides modules and state dict: lists, plain tensors, kinds of attention."""

import copy
import json
import pickle
import shutil

import pytest
import torch
from torch import nn

from kdnative.checkpoint import CheckpointError, load, save
from kdnative.convert import convert_
from kdnative.files import sha256_of
from kdnative.nn import Encoder
from tests.small_models import bert


class Tied(nn.Module):
    """One layer four times, and none at the end."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64)] * 4 + [None])

    def forward(self, x):
        for layer in self.layers:
            x = x if layer is None else layer(x)
        return x


def test_lists_with_one_module_several_times_and_with_gaps(tmp_path):
    model, x = convert_(Tied()).model, torch.randn(3, 64)
    save(model, tmp_path / "m")
    again = load(tmp_path / "m", into=Tied().eval())
    assert len(again.layers) == 5 and again.layers[0] is again.layers[3]
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_parts_that_compute_attention_in_ways_of_their_own(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 1, "eos_token_id": 2}
    text = {**sizes, **special, "vocab_size": 99, "max_position_embeddings": 16}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    config._attn_implementation = {"text_config": "eager", "vision_config": "sdpa"}
    model = convert_(transformers.CLIPModel(config), fuse=False).model
    save(model, tmp_path / "m")
    again = load(tmp_path / "m")
    for ours, theirs in (
        (again, model),
        (again.text_model, model.text_model),
        (again.vision_model, model.vision_model),
    ):
        assert ours.config._attn_implementation == theirs.config._attn_implementation
    assert again.text_model.config._attn_implementation == "eager"


def test_tensors_that_are_neither_parameters_nor_buffers(tmp_path):
    """VideoMAE holds its positions in a plain attribute, which no state dict has."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.VideoMAEConfig(**sizes, image_size=32, patch_size=8, num_frames=4)
    model, x = convert_(transformers.VideoMAEModel(config)).model, torch.randn(1, 4, 3, 32, 32)
    model.embeddings.position_embeddings = model.embeddings.position_embeddings + 0.5
    save(model, tmp_path / "m")
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "m")(x)[0], model(x)[0])


def test_caches_that_a_model_fills_are_not_saved(tmp_path, monkeypatch):
    """A constructor leaves None where they will be."""
    pooler = pytest.importorskip("transformers").models.bert.modeling_bert.BertPooler
    made = pooler.__init__

    def with_room(self, config):
        made(self, config)
        self.cache = None

    monkeypatch.setattr(pooler, "__init__", with_room)
    model = bert()
    model.bert.pooler.cache = torch.ones(3)
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").bert.pooler.cache is None
    assert "cache" not in json.loads((tmp_path / "m" / "kdnative.json").read_text())["weights"]["tensors"]


def test_tensors_that_no_constructor_makes(tmp_path):
    model = bert()
    model.bert.seen = torch.zeros(3)
    save(model, tmp_path / "m")
    with pytest.raises(
        CheckpointError, match=r"it holds tensors that nothing makes again .*bert\.seen.* load\(path, into"
    ):
        load(tmp_path / "m")
    load(tmp_path / "m", into=bert(seed=1))


def test_float_layers_compute_the_same_bits(tmp_path):
    """Memory that is not aligned makes some of torch's kernels add in another order."""
    model, x = (
        nn.Sequential(nn.Conv2d(3, 40, 3), nn.Conv2d(40, 40, 3), nn.Flatten(), nn.Linear(5760, 3)),
        torch.randn(2, 3, 16, 16),
    )
    save(model.eval(), tmp_path / "m")
    again = load(tmp_path / "m")
    assert all(p.data_ptr() % 64 == 0 for p in again.parameters())
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_save_pretrained_of_a_model_with_native_modules_writes_a_checkpoint(tmp_path):
    model = bert()
    assert convert_(model).totals["fused"] and type(model.bert) is Encoder
    save(model, tmp_path / "m")
    loaded, filled = load(tmp_path / "m"), load(tmp_path / "m", into=bert())
    for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded, filled):
        each.save_pretrained(tmp_path / "transformers", max_shard_size="1GB", state_dict=each.state_dict())
        assert {name: sha256_of(tmp_path / "transformers" / name) for name in files_of(tmp_path / "m")} == files_of(
            tmp_path / "m"
        )
        shutil.rmtree(tmp_path / "transformers")
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "config.json").write_text("{}")  # of another model
    with pytest.raises(CheckpointError, match=r"config\.json: kdnative\.save has not written this file"):
        model.save_pretrained(tmp_path / "transformers")


def files_of(folder):
    return {file.name: sha256_of(file) for file in folder.iterdir()}


def test_save_pretrained_of_a_float_model_works(tmp_path):
    model = bert()
    convert_(model, {"*.query": None}, embeddings=None)
    save(model, tmp_path / "m")
    for each in (model, load(tmp_path / "m")):
        each.save_pretrained(tmp_path / "transformers")
