"""Networks of convolutions in checkpoints: the same network comes back, and takes pictures."""

import json
import sys

import pytest
import torch
from torch import nn

from kdnative import cli
from kdnative.checkpoint import CheckpointError, inspect, load, save
from kdnative.nn import ConvNet, ImageInput
from kdnative.nn.tree import become
from tests.checkpoints import edit, loading_peak
from tests.convnets import Builder, every_kind, small, small_floats

PICTURES = ImageInput((12, 10), shorter=14, classes=("cat", "dog", "a\u202e bird"))


def outputs(model):
    torch.manual_seed(3)
    y = model(torch.randn(2, 3, 13, 9))
    return y if isinstance(y, tuple) else (y,)


def assert_same(a, b):
    assert all(torch.equal(x, y) for x, y in zip(outputs(a), outputs(b), strict=True))
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_whole_network_comes_back(tmp_path):
    net = ConvNet.from_graph(every_kind())
    save(net, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert type(loaded) is ConvNet and not loaded.training and not hasattr(loaded, "classes")
    assert loaded.graph == net.graph and torch.equal(loaded.packed, net.packed)
    assert_same(loaded, net)
    stored = json.loads((tmp_path / "m" / "kdnative.json").read_text())["weights"]["tensors"]
    assert stored.keys() == net.state_dict().keys() and stored["gate.qweight"]["dtype"] == "int8"


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process comes from /proc")
def test_loading_has_weights_in_memory_once(tmp_path):
    save(small(), tmp_path / "small")
    b = Builder()
    x = b.conv(0, 1024)
    for _ in range(8):
        x = b.conv(x, 1024)
    large = ConvNet.from_graph(b.graph(x))
    save(large, tmp_path / "large")
    assert large.packed.nbytes > 8e6
    assert 0.9 < loading_peak(tmp_path / "small", tmp_path / "large") / large.packed.nbytes < 1.5


def test_a_part_of_a_model_comes_back(tmp_path):
    model = nn.Sequential(small(), nn.Linear(3, 2)).eval()
    save(model, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "modules"
    assert_same(load(tmp_path / "m"), model)


def test_into_a_float_model(tmp_path):
    net = small()
    net.preprocess = PICTURES
    save(net, tmp_path / "m")
    model = small_floats()
    same = load(tmp_path / "m", into=model)
    assert same is model and type(model) is ConvNet and model.classes == PICTURES.classes
    assert_same(model, net)
    assert_same(load(tmp_path / "m", into=small()), net)
    for other in (nn.Linear(3, 3), nn.Sequential(nn.Conv2d(3, 7, 3)), ConvNet.from_graph(every_kind())):
        with pytest.raises(CheckpointError, match="can't take the place of this"):
            load(tmp_path / "m", into=other)


@pytest.mark.parametrize("channels", [3, 4])
def test_into_a_norm_without_weights(tmp_path, channels):
    b = Builder()
    x = b.conv(0, 3, groups=3, name="0")
    net = ConvNet.from_graph(b.graph(b.conv(x, 5, kernel=(3, 3), name="1")))
    save(net, tmp_path / "m")
    model = nn.Sequential(nn.BatchNorm2d(channels, affine=False), nn.Conv2d(channels, 5, 3))
    if channels == 3:
        assert_same(load(tmp_path / "m", into=model), net)
        return
    with pytest.raises(CheckpointError, match="can't take the place of this"):
        load(tmp_path / "m", into=model)


def test_into_the_part_of_a_float_model(tmp_path):
    class Two(nn.Module):
        def __init__(self, features):
            super().__init__()
            self.features, self.head = features, nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.features(x))

    native = Two(small()).eval()
    save(native, tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    model = load(tmp_path / "m", into=Two(small_floats()).eval())
    assert type(model.features) is ConvNet
    assert_same(model, native)


def test_modules_that_are_gone(tmp_path):
    """A network takes the place of several modules that follow one another; the others pass on what they are given."""
    native = small_floats().eval()
    whole = small()
    for number in range(1, 5):
        native[number] = nn.Identity()
    native[0] = whole
    save(native, tmp_path / "m")
    assert_same(load(tmp_path / "m"), native)
    model = load(tmp_path / "m", into=small_floats())
    assert type(model[0]) is ConvNet and type(model[4]) is nn.Identity
    assert_same(model, native)


def test_a_loaded_model_takes_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    net = small()
    net.preprocess = PICTURES
    save(net, tmp_path / "m")
    picture = image.new("RGB", (40, 30), "teal")
    picture.save(tmp_path / "picture.png")
    model = load(tmp_path / "m")
    assert model.preprocess == PICTURES and model.classes == PICTURES.classes
    x = model.preprocess(tmp_path / "picture.png")
    assert x.shape == (1, 3, 12, 10) and torch.equal(model(x), net(PICTURES(picture)))
    save(model, tmp_path / "again")  # it is still part of the model
    assert load(tmp_path / "again").preprocess == PICTURES


def test_any_model_may_take_pictures(tmp_path):
    model = small_floats().eval()
    model.preprocess = PICTURES
    save(model, tmp_path / "m")
    assert load(tmp_path / "m").preprocess == PICTURES


@pytest.mark.parametrize(
    ("own", "preprocess", "classes"),
    [
        ({}, PICTURES, PICTURES.classes),
        ({"classes": 10}, PICTURES, 10),
        ({"preprocess": ImageInput((3, 3), classes=("a",)), "classes": ("a",)}, PICTURES, PICTURES.classes),
        ({"preprocess": ImageInput((3, 3), classes=("a",)), "classes": 10}, PICTURES, 10),
        ({"preprocess": "mine"}, "mine", PICTURES.classes),
    ],
)
def test_what_a_model_has_of_its_own_stays(tmp_path, own, preprocess, classes):
    native = nn.Sequential(small())
    native.preprocess = PICTURES
    save(native, tmp_path / "m")
    model = nn.Sequential(small_floats())
    vars(model).update(own)
    load(tmp_path / "m", into=model)
    assert model.preprocess == preprocess and model.classes == classes


def test_a_model_that_becomes_native_still_takes_pictures():
    model = small_floats()
    model.preprocess, model.classes = PICTURES, PICTURES.classes
    become(model, small())
    assert type(model) is ConvNet and model.preprocess is PICTURES and model.classes == PICTURES.classes


def test_inspect_shows_convolutions_and_pictures(tmp_path, capsys):
    net = nn.Sequential(small())
    net.preprocess = PICTURES
    save(net, tmp_path / "m")
    found = inspect(tmp_path / "m")
    rows = {row["name"]: row for row in found["modules"]}
    assert rows.keys() == {"0.0", "0.4"}
    assert rows["0.0"]["kind"] == "part of kdnative.nn.ConvNet" and rows["0.0"]["scheme"] == "w8a8"
    assert rows["0.0"]["shape"] == [8, 3, 3, 3] and rows["0.0"]["bytes"] == 8 * 27 + 8 * 4 * 2
    assert found["image_input"] == PICTURES.to_json()
    assert cli.main(["inspect", str(tmp_path / "m")]) == 0
    text = capsys.readouterr().out
    assert "8x3x3x3" in text and "pictures: 12 x 10 pixels, 3 classes 'cat', 'dog'" in text and "\u202e" not in text


@pytest.fixture
def saved(tmp_path):
    net = small()
    net.preprocess = PICTURES
    save(net, tmp_path / "m")
    return tmp_path / "m"


def graph_of(manifest):
    return manifest["modules"][""]["config"]["graph"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: graph_of(m)["nodes"][1].update(kernel=[3, 4]), "0.qweight has shape"),
        (lambda m: graph_of(m)["nodes"][3].update(channels=1 << 20), "4.qweight has shape"),
        (lambda m: graph_of(m)["nodes"][1].update(name="other"), "other.qweight is missing"),
        (lambda m: graph_of(m)["nodes"][1].update(inputs=[2]), "input 2 is not an earlier node"),
        (lambda m: graph_of(m)["nodes"][1].update(node="exec"), "'node' is one of input, conv"),
        (lambda m: graph_of(m)["nodes"][0].update(out=[1e-300, 3]), "scale of a range must be positive"),
        (lambda m: graph_of(m)["nodes"][1].update(out=[1e-30, 3]), "more than kernels take"),
        (lambda m: graph_of(m).update(nodes=[]), "first node of a network must be its Input"),
        (lambda m: graph_of(m)["nodes"].pop(), "output 3 is no node"),
        (lambda m: m["modules"][""].update(config={}), "entry 'graph' alone"),
        (lambda m: m.update(image_input=3), "'image_input' is missing or not null or a table"),
        (lambda m: m["image_input"].update(size=[0, 0]), "size must be a height and a width"),
        (lambda m: m["image_input"].update(interpolation="open"), "interpolation one of nearest"),
        (lambda m: m["image_input"].pop("mean"), "must be a table of"),
    ],
)
def test_bad_descriptions(saved, change, words):
    edit(saved, change)
    with pytest.raises(CheckpointError, match=words):
        load(saved)


@pytest.mark.parametrize("given", [{}, {**PICTURES.to_json(), "mean": [10**400]}])
def test_inspect_reads_how_pictures_are_given(saved, given, capsys):
    edit(saved, lambda manifest: manifest.update(image_input=given))
    with pytest.raises(CheckpointError, match="kdnative.json: damaged: .*(must be a table of|finite numbers)"):
        inspect(saved)
    assert cli.main(["inspect", str(saved)]) == 1
    assert "kdnative.json: damaged:" in capsys.readouterr().err


def test_padding_that_no_tensor_has_paid_for(saved):
    """A thousand nodes may share the tensors of one convolution; their packed forms may not."""

    def many(manifest):
        graph = graph_of(manifest)
        first = graph["nodes"][1]
        graph["nodes"] += [{**first, "name": f"conv{i}"} for i in range(1000)]

    edit(saved, many)
    with pytest.raises(CheckpointError, match="conv0.qweight is missing"):
        load(saved)
