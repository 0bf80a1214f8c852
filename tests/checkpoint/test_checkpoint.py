"""Checkpoints: models come back as they were saved, and `inspect` says what is in a folder."""

import hashlib
import json
import math
import shutil
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import kdnative
from kdnative import checkpoint
from kdnative.checkpoint import CheckpointError, file_size, inspect, load, save
from kdnative.checkpoint.weights import Weights, open_checkpoint
from kdnative.convert import convert_
from kdnative.nn import Embedding, Encoder, Linear
from kdnative.quantize import FakeQuantLinear, prepare_qat_
from tests.checkpoints import assert_same, edit, ids, loading_peak, mlp, names, output, weights_file
from tests.input_scales import random_scales, scaled_weights
from tests.small_models import bert

# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [None, "w8a8", "w4a8-g32-asym", "w2a8-g64", "w8a16", "w4a16-g64", "w4a8-g32-int"])
def test_mlp(tmp_path, scheme):
    model = mlp().eval()
    if scheme:
        convert_(model, scheme, method="rtn")
    assert save(model, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    loaded = load(tmp_path / "a" / "b")
    assert_same(model, loaded)
    assert repr(loaded) == repr(model) and not loaded.training
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == [weights_file(tmp_path / "a" / "b").name, "kdnative.json"]
    assert_same(model, load(tmp_path / "a" / "b", into=mlp(1).eval()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["float", "fused", "layers"])
def test_bert(tmp_path, dtype, how):
    model = bert().to(dtype)
    if how != "float":
        convert_(model, {"*attention*": "w8a8", "*": "w4a8-g64"}, fuse=how == "fused")
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert_same(model, loaded)
    assert type(loaded) is type(model) and loaded.config.to_dict() == model.config.to_dict()
    assert type(loaded.bert) is (Encoder if how == "fused" else type(model.bert))
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    assert output(loaded).dtype == dtype
    assert_same(model, load(tmp_path / "m", into=bert(seed=5).to(dtype)))


def test_bare_encoder(tmp_path):
    model = convert_(bert().bert).model
    save(model, tmp_path / "m")
    assert_same(model, load(tmp_path / "m"))
    assert_same(model, load(tmp_path / "m", into=convert_(bert(seed=3).bert).model))
    whole = bert(seed=3)
    assert load(tmp_path / "m", into=whole.bert) is whole.bert
    assert_same(model, whole.bert)
    inputs = torch.randint(200, (2, 9))
    with torch.inference_mode():
        assert torch.equal(whole(inputs).logits, whole.classifier(model(inputs).pooler_output))
    for other in (bert(hidden_size=96, num_attention_heads=3).bert, nn.Linear(64, 64), bert()):
        before = {name: type(module) for name, module in other.named_modules()}
        with pytest.raises(CheckpointError, match="holds a kdnative.nn.Encoder, which can't take the place of this"):
            load(tmp_path / "m", into=other)
        assert {name: type(module) for name, module in other.named_modules()} == before


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 96), lambda: nn.Embedding(40, 64)])
def test_bare_layer(tmp_path, make):
    model = convert_(make(), {"*": "w8a8"}).model
    save(model, tmp_path / "m")
    for other in (None, make()):
        loaded = load(tmp_path / "m", into=other)
        assert loaded.spec == model.spec and type(loaded) is type(model) and (other is None or loaded is other)
        state = loaded.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match="can't take the place of this Linear"):
        load(tmp_path / "m", into=nn.Linear(64, 95))


def test_bert_without_pooler(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel(bert().config, add_pooling_layer=False).eval()
    convert_(model, fuse=False)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.pooler is None and type(loaded) is type(model)
    inputs = torch.randint(200, (2, 9))
    with torch.inference_mode():
        assert torch.equal(loaded(inputs)[0], model(inputs)[0])

    model.pooler = torch.relu  # not a module, so no table has it, and not None either
    save(model, tmp_path / "odd")
    assert inspect(tmp_path / "odd")["rebuild"] == "into"


@pytest.mark.parametrize("convert", [False, True])
def test_structurally_pruned_bert(tmp_path, convert):
    from kdnative.prune import structured_

    sizes = {"hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 256}
    model = bert(**sizes)
    structured_(model, heads=0.5, ffn=0.5, example_inputs={"input_ids": ids()}, multiple_of=16)
    assert model.bert.encoder.layer[0].attention.self.query.out_features == 64
    if convert:
        convert_(model)
    save(model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "transformers"
    assert_same(model, load(tmp_path / "m"))
    assert_same(model, load(tmp_path / "m", into=bert(9, **sizes)))


def test_layers_of_different_shapes(tmp_path):
    """Shapes and head counts that no configuration can say, and fewer layers than it says."""
    model = bert(num_hidden_layers=3)
    del model.bert.encoder.layer[2]
    attention = model.bert.encoder.layer[1].attention
    for name in ("query", "key", "value"):
        setattr(attention.self, name, nn.Linear(64, 32))
    attention.output.dense = nn.Linear(32, 64)
    attention.self.num_attention_heads, attention.self.all_head_size = 2, 32
    layer = model.bert.encoder.layer[0]
    layer.intermediate.dense, layer.output.dense = nn.Linear(64, 80), nn.Linear(80, 64)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert_same(model, loaded)
    assert loaded.bert.encoder.layer[1].attention.self.num_attention_heads == 2
    filled = load(tmp_path / "m", into=bert(4, num_hidden_layers=3))
    assert_same(model, filled)
    assert filled.bert.encoder.layer[1].attention.self.all_head_size == 32


def test_quantization_aware_student(tmp_path):
    for model in (mlp(), bert()):
        prepare_qat_(model, "w4a8-g32", clip="learn")
        save(model.eval(), tmp_path / "m")
        loaded = load(tmp_path / "m")
        assert_same(model, loaded)
        assert [str(m.scheme) for m in loaded.modules() if isinstance(m, FakeQuantLinear)]
        shutil.rmtree(tmp_path / "m")


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32-asym", "w4a16-g64"])
@pytest.mark.parametrize("fuse", [True, False])
def test_input_scales(tmp_path, scheme, fuse):
    model = bert()
    convert_(model, scheme, weights=scaled_weights(model, scheme), fuse=fuse)
    save(model, tmp_path / "m")
    for loaded in (load(tmp_path / "m"), load(tmp_path / "m", into=bert(seed=5))):
        assert_same(model, loaded)
    assert sum(name.endswith("input_scale") for name in model.state_dict()) == (
        9 if fuse and "16" not in scheme else 13
    )
    found = {row["scheme"] for row in inspect(tmp_path / "m")["modules"]}
    assert found == {None, "int8", f"{scheme}-is"}


def test_a_student_trained_with_input_scales(tmp_path):
    model = nn.Sequential(FakeQuantLinear.from_float(nn.Linear(64, 32), "w4a8-g32", input_scale=random_scales(64)))
    save(model.eval(), tmp_path / "m")
    loaded, x = load(tmp_path / "m"), torch.randn(3, 64)
    assert torch.equal(loaded[0].input_scale, model[0].input_scale)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_tied_weights_are_stored_once_and_tied_again(tmp_path):
    model = bert(kind="BertForMaskedLM")
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert_same(model, loaded)
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    with safe_open(weights_file(tmp_path / "m"), "pt") as file:
        shapes = [tuple(file.get_slice(k).get_shape()) for k in file.keys()]  # noqa: SIM118
    assert shapes.count((200, 64)) == 1


def test_views_and_transposed_tensors(tmp_path):
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
    storage = torch.randn(8, 12)
    model[0].weight = nn.Parameter(storage[:, :8].t()[:, :8].t()[:4])
    model[1].weight = nn.Parameter(storage[:, 8:])
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_checkpoints_are_plain_and_the_same_every_time(tmp_path):
    model = convert_(mlp(), "w4a8-g64").model
    save(model, tmp_path / "a")
    save(model, tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tensors = load_file(weights_file(tmp_path / "a"))
    assert tensors["1.qweight"].dtype == torch.uint8 and tensors["1.qweight"].shape == (256, 32)
    manifest = json.loads((tmp_path / "a" / "kdnative.json").read_text())
    weights = weights_file(tmp_path / "a").read_bytes()
    assert manifest["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert manifest["weights"]["bytes"] == len(weights) == file_size(tmp_path / "a")
    assert manifest["kdnative"] == kdnative.__version__ and manifest["format"] == checkpoint.FORMAT
    assert manifest["weights"]["tensors"]["1.scale"] == {"shape": [256, 1], "dtype": "float32"}
    assert weights_file(tmp_path / "a").stat().st_mode == (tmp_path / "a" / "kdnative.json").stat().st_mode


def test_models_that_need_into(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.act = nn.Linear(64, 64), nn.ReLU()

        def forward(self, x):
            return self.act(self.body(x)) + x

    model, x = Model().eval(), torch.randn(3, 64)
    convert_(model)
    save(model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    with pytest.raises(CheckpointError, match=r"Model can't be rebuilt.*load\(path, into=model\)"):
        load(tmp_path / "m")
    other = Model()
    assert load(tmp_path / "m", into=other) is other and other.training
    assert type(other.body) is Linear and torch.equal(other(x), model(x))


def test_configurations_with_infinities(tmp_path):
    model, x = bert(limits=[0.0, math.inf], other=-math.inf), torch.arange(6).view(2, 3)
    convert_(model)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert torch.equal(loaded(x).logits, model(x).logits)
    for config in (loaded.config, loaded.bert.config):
        assert config.limits == [0.0, math.inf] and config.other == -math.inf
    convert_(bare := bert(kind="BertModel", other=math.inf))
    save(bare, tmp_path / "bare")
    assert load(tmp_path / "bare").config.other == math.inf


def test_a_configuration_that_builds_nothing_needs_into(tmp_path, monkeypatch):
    class Strict(Exception):
        """Of no kind that one would expect."""

    def refuse(*arguments, **options):
        raise Strict

    model, other = bert(), bert(seed=1)
    convert_(model)
    with monkeypatch.context() as patch:
        patch.setattr(type(model.config), "from_dict", refuse)
        save(model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    assert_same(model, load(tmp_path / "m", into=other))


def test_a_module_used_twice_is_not_rebuilt_wrongly(tmp_path):
    shared = nn.Linear(64, 64)
    save(nn.Sequential(shared, nn.ReLU(), shared), tmp_path / "m")
    with pytest.raises(CheckpointError, match="into="):
        load(tmp_path / "m")


def test_a_converted_module_used_twice_is_filled_in_both_places(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.body = nn.Embedding(50, 64), nn.Linear(64, 64)
            self.part = nn.ModuleDict({"table": self.table, "body": self.body})

        def forward(self, ids):
            return self.body(self.table(ids)) + self.part["body"](self.part["table"](ids))

    model, other, x = Model().eval(), Model(), torch.arange(50)
    convert_(model)
    save(model, tmp_path / "m")
    load(tmp_path / "m", into=other)
    assert type(other.table) is Embedding and other.part["table"] is other.table and other.part["body"] is other.body
    assert torch.equal(other(x), model(x))


def test_layers_that_hide_an_argument_are_not_rebuilt_wrongly(tmp_path):
    save(nn.Sequential(nn.MultiheadAttention(8, 2, add_bias_kv=True)), tmp_path / "m")
    with pytest.raises(CheckpointError, match="into="):
        load(tmp_path / "m")


# -- reading -----------------------------------------------------------------------------------------------------------

DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool uint16 uint32 uint64 complex64 "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"
).split()


def test_tensors_of_every_dtype_and_shape(tmp_path):
    model = nn.Module()
    for dtype in DTYPES:
        for shape in ((), (0,), (3, 5), (2, 0, 3)):
            kind = getattr(torch, dtype)
            codes = torch.randint(0, 2, (*shape, kind.itemsize), dtype=torch.uint8)
            model.register_buffer(f"{dtype}_{'x'.join(map(str, shape))}", codes.view(kind).reshape(shape))
    save(model, tmp_path / "m")
    with open_checkpoint(tmp_path / "m")[1] as weights:
        state, read = weights.state(), {name: weights.read(name) for name in weights.shapes}
    assert len(state) == len(read) == len(DTYPES) * 4
    for name, tensor in model.state_dict().items():
        for found in (state[name], read[name]):
            assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
            assert found.view(-1).view(torch.uint8).tolist() == tensor.view(-1).view(torch.uint8).tolist(), name


def test_tensors_are_read_into_memory_of_their_shape_and_dtype(tmp_path):
    save(nn.Sequential(nn.Linear(4, 3)), tmp_path / "m")
    with open_checkpoint(tmp_path / "m")[1] as weights:
        place = torch.zeros(3, 4)
        assert weights.read("0.weight", place) is place and place.count_nonzero() == 12
        for other in (torch.zeros(4, 3), torch.zeros(3, 4, dtype=torch.float64), None):
            found = weights.read("0.weight", other)
            assert found is not other and torch.equal(found, place)
            assert other is None or not other.any()


def test_an_encoders_tables_are_read_into_its_packed_weights(tmp_path, monkeypatch):
    model = convert_(bert()).model
    save(model, tmp_path / "m")
    read, places = Weights.read, {}

    def watched(self, name, place=None):
        found = read(self, name, place)
        if found is place:
            places[name] = found.untyped_storage().data_ptr()
        return found

    monkeypatch.setattr(Weights, "read", watched)
    loaded = load(tmp_path / "m")
    tables = {
        f"bert.embeddings.{table}.{part}"
        for table in ("word", "position", "token_type")
        for part in ("qweight", "scale")
    }
    assert places == dict.fromkeys(tables, loaded.bert.packed.untyped_storage().data_ptr())
    assert torch.equal(loaded.bert.packed, model.bert.packed)


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process comes from /proc")
@pytest.mark.parametrize("into", [False, True])
def test_loading_an_encoder_has_its_weights_in_memory_once(tmp_path, into):
    save(nn.ModuleDict({"a": convert_(bert().bert).model}), tmp_path / "small")
    large = convert_(bert(vocab_size=100_000, hidden_size=256, intermediate_size=4096).bert).model
    save(nn.ModuleDict({"a": large}), tmp_path / "large")
    peak = loading_peak(tmp_path / "small", tmp_path / "large", into)
    assert large.packed.nbytes > 30e6  # 25.6 MB of it are the table of words
    assert 0.9 < peak / large.packed.nbytes < 1.3


# -- describing --------------------------------------------------------------------------------------------------------


def test_inspect_plain(tmp_path):
    saved = save(convert_(mlp(), "w4a8-g64").model, tmp_path / "m")
    found = inspect(saved)
    rows = {row["name"]: row for row in found["modules"]}
    assert set(rows) == {"0", "1", "3", "4.0", "5"}
    assert rows["1"] == {
        "name": "1", "kind": "kdnative.nn.Linear", "scheme": "w4a8-g64", "shape": [256, 64],
        "bytes": 256 * 32 + 256 * 4 + 256 * 4,
    }  # fmt: skip
    assert rows["0"]["scheme"] == "int8" and rows["0"]["shape"] == [100, 64] and rows["0"]["bytes"] == 6400 + 400
    assert rows["5"]["kind"] == "torch.nn.Linear" and rows["5"]["scheme"] is None
    totals = found["totals"]
    assert totals["bytes"] == sum(row["bytes"] for row in rows.values()) < totals["file_bytes"] == file_size(saved)
    assert found["model"] == "torch.nn.Sequential" and json.loads(json.dumps(found)) == found


def test_inspect_fused(tmp_path):
    save(convert_(bert(), {"*attention*": "w8a8", "*": "w4a8-g32"}).model, tmp_path / "m")
    rows = {row["name"]: row for row in inspect(tmp_path / "m")["modules"]}
    assert rows["bert.layers.1.qkv"]["scheme"] == "w8a8" and rows["bert.layers.1.qkv"]["shape"] == [192, 64]
    assert rows["bert.layers.0.ffn_in"]["scheme"] == "w4a8-g32" and rows["bert.layers.0.ffn_in"]["shape"] == [128, 64]
    assert rows["bert.embeddings.word"]["scheme"] == "int8" and rows["bert.pooler"]["scheme"] == "w4a8-g32"
    assert rows["classifier"]["scheme"] is None
    edit(tmp_path / "m", lambda m: m["modules"]["bert"].update(config={}))
    with pytest.raises(CheckpointError, match="do not agree"):
        inspect(tmp_path / "m")


def test_file_size_of_other_folders(tmp_path):
    save_file({"a": torch.zeros(10)}, tmp_path / "x.safetensors")
    save_file({"b": torch.zeros(20)}, tmp_path / "y.safetensors")
    sizes = [(tmp_path / n).stat().st_size for n in names(tmp_path)]
    assert file_size(tmp_path) == sum(sizes) and file_size(tmp_path / "x.safetensors") == sizes[0]


def test_embedding_dtype_survives(tmp_path):
    table = Embedding.from_float(nn.Embedding(10, 64, dtype=torch.bfloat16))
    model = nn.Sequential(table, nn.LayerNorm(64, dtype=torch.bfloat16))
    save(model, tmp_path / "m")
    assert load(tmp_path / "m")(torch.tensor([1])).dtype == torch.bfloat16
