"""Networks as JSON: the same ones come back, and nothing else gets in."""

import copy
import json
from dataclasses import replace

import pytest

from kdnative.formats.convnet.graph import Ending, Fixed, Graph, Lookup, Range, Resize
from kdnative.formats.convnet.json import from_json, to_json
from tests.convnets import Builder, every_kind


def plain():
    return json.loads(json.dumps(to_json(every_kind())))


def test_every_kind_of_node_comes_back():
    graph = every_kind()
    got = from_json(plain())
    assert got == Graph(graph.nodes, graph.outputs, graph.flat)


def test_what_is_rarely_set_comes_back():
    b = Builder()
    before = Range(1 / 3, 17)
    b.other(Lookup, [0], ending=Ending("leaky_relu", (0.1,)))
    b.conv(1, 4, padding="same", stride=(2, 1), ending=Ending("elu", (0.3,), before))
    b.other(Resize, [2], size=(5, 7), mode="bilinear", align_corners=True)
    graph = b.graph(3)
    got = from_json(json.loads(json.dumps(to_json(graph))))
    assert got.nodes == graph.nodes


def test_the_one_size_of_a_network_comes_back():
    graph = replace(every_kind(), fixed=Fixed((31, 7), "it has a branch"), weights={})
    assert from_json(json.loads(json.dumps(to_json(graph)))) == graph


def changed(path, value):
    """The description with one entry set, or taken out where the value is ``del``."""
    whole = part = copy.deepcopy(plain())
    for key in path[:-1]:
        part = part[key]
    if value == "del":
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return whole


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["nodes"], {}, "nodes of a network must be a list"),
        (["nodes"], [], "first node of a network must be its Input"),
        (["outputs"], "del", "lacks outputs"),
        (["more"], 1, "has the entry 'more'"),
        (["fixed"], None, "fixed must be a table"),
        (["fixed"], {"size": [3, 4]}, "fixed lacks why"),
        (["fixed"], {"size": [3], "why": ""}, "fixed: size must be two integers"),
        (["fixed"], {"size": [0, 3], "why": ""}, "the size of images must be from 1"),
        (["fixed"], {"size": [3, 3], "why": 1}, "fixed: why must be a text"),
        (["outputs"], [True], "outputs must be an integer"),
        (["outputs"], [15, 99], "output 99 is no node"),
        (["outputs"], [], "needs outputs"),
        (["flat"], [0, 1], "flat must be true or false"),
        (["nodes", 1], "conv", "must be a table whose 'node' is one of"),
        (["nodes", 1, "node"], "eval", "must be a table whose 'node' is one of"),
        (["nodes", 1, "node"], ["conv"], "must be a table whose 'node' is one of"),
        (["nodes", 1, "name"], 3, "node 1: name must be a text"),
        (["nodes", 1, "name"], "x", "its name must be its own"),
        (["nodes", 1, "inputs"], [1], "input 1 is not an earlier node"),
        (["nodes", 1, "inputs"], [7], "input 7 is not an earlier node"),
        (["nodes", 1, "inputs"], [-1], "from 0 to 2\\^31 - 1"),
        (["nodes", 1, "inputs"], [], "has 0 inputs, and must have 1 or 2"),
        (["nodes", 1, "out"], [0.1], "a scale and a zero point"),
        (["nodes", 1, "out"], [0.0, 3], "scale of a range must be positive"),
        (["nodes", 1, "out"], [-1.0, 3], "scale of a range must be positive"),
        (["nodes", 1, "out"], [float("nan"), 3], "must be a finite number"),
        (["nodes", 1, "out"], [10**400, 3], "must be a finite number"),
        (["nodes", 1, "out"], [0.1, 256], "zero point of a range must be from 0 to 255"),
        (["nodes", 1, "out"], [0.1, 1.0], "must be an integer"),
        (["nodes", 1, "out"], None, "gives real numbers has no activation"),
        (["nodes", 1, "channels"], 0, "has 0 channels"),
        (["nodes", 1, "channels"], 25, "channels"),
        (["nodes", 1, "channels"], 2**30, "channels"),
        (["nodes", 1, "kernel"], [3], "must be two integers"),
        (["nodes", 1, "kernel"], [3, 0], "kernel must be from 1 to"),
        (["nodes", 1, "kernel"], [30000, 30000], "could overflow int32"),
        (["nodes", 1, "stride"], [2**20, 1], "stride must be from 1 to"),
        (["nodes", 1, "padding"], [1, 1], "top, bottom, left and right"),
        (["nodes", 1, "padding"], "valid", "must be a list"),
        (["nodes", 1, "groups"], 2, "groups \\(2\\) must divide"),
        (["nodes", 1, "ending"], {"activation": "relu"}, "lacks before, parameters"),
        (["nodes", 1, "ending", "activation"], "exec", "activation 'exec' is not known"),
        (["nodes", 1, "ending", "parameters"], [1.0], "relu6 takes 0 finite numbers"),
        (["nodes", 1, "ending", "before"], [0.1, 3], "has no range before it"),
        (["nodes", 7, "ending", "before"], None, "needs the range before it"),
        (["nodes", 1, "order"], [1], "has the entry 'order'"),
        (["nodes", 5, "kind"], "median", "kind must be 'max' or 'average'"),
        (["nodes", 5, "adaptive"], 1, "must be true or false"),
        (["nodes", 9, "out"], [0.5, 3], "its range must be the one of its input"),
        (["nodes", 9, "padding"], [2, 0], "at most half of the kernel"),
        (["nodes", 13, "order"], [24] * 24, "order must name 24 channels, each from 0 to 23"),
        (["nodes", 14, "channels"], 47, "do not give 47"),
        (["nodes", 15, "factor"], "del", "needs a size or a factor"),
        (["nodes", 15, "factor"], [1e9, 1.0], "at most 1024"),
        (["nodes", 15, "mode"], "cubic", "mode must be"),
        (["nodes", 17, "inputs"], [15, 16], "has no activation and no residual"),
    ],
)
def test_bad_descriptions(path, value, words):
    with pytest.raises(ValueError, match=words):
        from_json(changed(path, value))


def test_nodes_are_bounded_by_convolutions():
    """Nodes without tensors cost a reader memory and time that no file has paid for."""
    pool = {"node": "pool", "inputs": [0], "out": [0.02, 128], "channels": 3}
    nodes = [plain()["nodes"][0]] + [{**pool, "name": str(i)} for i in range(1001)]
    with pytest.raises(ValueError, match="1002 nodes for 0 convolutions"):
        from_json({"nodes": nodes, "outputs": [1], "flat": [False]})
