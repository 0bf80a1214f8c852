"""Target: what fuzzing has found once. A new finding becomes a line here, in the words of what is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdnative import ops
from tests.fuzz.buffers import make_buffers, tensor_of
from tests.fuzz.checkpoint import Attempt, Checkpoints
from tests.fuzz.data import DataFiles, Files
from tests.fuzz.operators import Call, Operators
from tests.fuzz.recipes import LAUGHS, Recipes, Written
from tests.fuzz.target import Finding

__all__ = ["Regressions"]

Manifest = dict[str, Any]


def config(of: str, **values: Any) -> Callable[[Manifest], None]:
    """Sets arguments of every module of a class; ``...`` leaves one out."""

    def change(manifest: Manifest) -> None:
        for entry in manifest["modules"].values():
            if entry["class"] == f"kdnative.nn.{of}":
                _set(entry["config"], values)

    return change


def layers(of: str, **values: Any) -> Callable[[Manifest], None]:
    """The same for every layer of an encoder."""

    def change(manifest: Manifest) -> None:
        for entry in manifest["modules"].values():
            if entry["class"] == f"kdnative.nn.{of}":
                for layer in entry["config"]["layers"]:
                    _set(layer, values)

    return change


def repeated_layers(times: int) -> Callable[[Manifest], None]:
    """The layers of an encoder again and again."""

    def change(manifest: Manifest) -> None:
        manifest["modules"][""]["config"]["layers"] *= times

    return change


def module(name: str, cls: str, **arguments: Any) -> Callable[[Manifest], None]:
    return lambda manifest: manifest["modules"].update({name: {"class": cls, "config": arguments}})


def aliases(**names: Any) -> Callable[[Manifest], None]:
    return lambda manifest: manifest["weights"].update(aliases={n.replace("_", "."): to for n, to in names.items()})


def top(**values: Any) -> Callable[[Manifest], None]:
    return lambda manifest: _set(manifest, values)


def hugging_face(cls: str, attention: str = "eager", **values: Any) -> Callable[[Manifest], None]:
    """Another model of transformers."""

    def change(manifest: Manifest) -> None:
        manifest["transformers"] = {"class": cls, "attention": attention, "config": values}

    return change


def _set(table: Manifest, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is ...:
            table.pop(name, None)
        else:
            table[name] = value


LARGE = 10**9
OF_THE_HUB = {"model_type": "detr", "backbone": "evil-org/evil", "use_timm_backbone": False, "backbone_config": None}
WITH_CODE = {
    "model_type": "upernet",
    "backbone_config": {"model_type": "bert", "auto_map": {"AutoBackbone": "evil-org/evil--evil.EvilBackbone"}},
}
CHECKPOINTS: list[tuple[str, str, Callable[[Manifest], None]]] = [  # what, of which seed; all must be refused
    ("an alias of a list", "w8a8", aliases(a=["x"])),
    ("an alias of an alias", "w8a8", aliases(a="1.qweight", b="a")),
    ("an alias of itself", "w8a8", aliases(a="a")),
    ("an alias in place of a tensor", "w8a8", aliases(**{"3_weight": "3.bias"})),
    ("a frozen list", "w8a8", top(frozen=[["x"]])),
    ("frozen mappings", "w8a8", top(frozen=[{"a": 1}])),
    ("modules without the outermost", "w8a8", top(modules={})),
    ("a linear of many features", "w8a8", config("Linear", in_features=60_000, out_features=60_000)),
    ("a linear of -1 features", "w8a8", config("Linear", in_features=-1)),
    ("a linear of half a feature", "w8a8", config("Linear", in_features=0.5)),
    ("a linear of an unknown scheme", "w8a8", config("Linear", scheme="w9a9")),
    ("a linear whose scheme is a number", "w8a8", config("Linear", scheme=8)),
    ("a linear without its input scales", "w8a8", config("Linear", scheme="w8a8-is")),
    ("a linear of an unknown dtype", "w8a8", config("Linear", dtype="nn")),
    ("a table of many rows", "w8a8", config("Embedding", num_embeddings=10**10, embedding_dim=1)),
    ("an encoder without eps", "bert", config("Encoder", eps=...)),
    ("an encoder whose eps is a word", "bert", config("Encoder", eps="x")),
    ("an encoder of an unknown norm", "bert", config("Encoder", norm="x")),
    ("an encoder of a padding id that is a list", "bert", config("Encoder", padding_id=[1])),
    ("an encoder without token types", "bert", config("Encoder", token_types=...)),
    ("an encoder of many words", "bert", config("Encoder", vocab_size=LARGE)),
    ("an encoder without scaling", "bert", layers("Encoder", scaling=...)),
    ("an encoder of a wide feed-forward network", "bert", layers("Encoder", ffn=10**8)),
    ("an encoder whose heads are none", "bert", layers("Encoder", heads=0)),
    ("an encoder of a negative angle", "modernbert", layers("Encoder", rope_theta=-1.5)),
    ("an encoder of many positions", "modernbert", config("Encoder", max_positions=3 * 10**8)),
    ("an encoder of many layers", "bert", repeated_layers(10_000)),
    ("a kernel of the hub", "bert-head", lambda m: m["transformers"].update(attention="evil-org/evil-kernel")),
    ("attention that is not installed", "bert-head", lambda m: m["transformers"].update(attention="flash_attention_2")),
    ("a model of many layers", "bert-not-fused", lambda m: m["transformers"]["config"].update(num_hidden_layers=LARGE)),
    ("a backbone of the hub", "bert-head", hugging_face("DetrModel", **OF_THE_HUB)),
    ("a backbone with code", "bert-head", hugging_face("UperNetForSemanticSegmentation", **WITH_CODE)),
    ("an LSTM of many layers", "w8a8", module("2", "torch.nn.LSTM", input_size=64, hidden_size=64, num_layers=LARGE)),
    ("a transformer of many layers", "w8a8", module("2", "torch.nn.Transformer", num_encoder_layers=10**8)),
    ("a layer of torch.nn that is wide", "w8a8", module("2", "torch.nn.Linear", in_features=10**7, out_features=10**7)),
    ("a file outside", "w8a8", lambda m: m["weights"].update(file="../outside.safetensors")),
]

RECIPES: list[tuple[str, str]] = [  # all must be refused
    ("short text, many values", f"name: x\n{LAUGHS}"),
    ("a list as a key", "name: x\n? [a, b]\n: 1\n"),
    ("a number that is a word", "name: x\nseed: !!float x\n"),
    ("a number without digits", "name: x\nseed: !!float ''\n"),
    ("a number of many digits", f"name: x\nseed: {'9' * 5000}\n"),
    ("a mapping in itself", "name: x\ndata: &a {source: *a}\n"),
    ("lists in lists", f"name: {'[' * 3000}\n"),
    ("code", "name: !!python/object/apply:os.system [true]\n"),
]

DATA: list[tuple[str, str, str]] = [  # all must be refused
    ("lists in lists", "data.jsonl", '{"text": "a", "label": "b"}\n{"text": ' + "[" * 3000),
    ("a number of many digits", "data.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}"),
    ("a label that is a list", "data.jsonl", '{"text": "a", "label": []}'),
    ("a field that does not end", "data.csv", 'text,label\n"a,b\n'),
]


@dataclass
class Case:
    """A named input of another target; whether it may work."""

    name: str
    target: Any
    made: Any
    refused: bool = True


class Regressions:
    """See :class:`tests.fuzz.target.Target`."""

    def __init__(self, folder: Path) -> None:
        checkpoints, operators = Checkpoints(folder), Operators(folder)
        self._cases = [
            Case(f"checkpoint: {what}", checkpoints, Attempt(kind, _changed(checkpoints, kind, change)))
            for what, kind, change in CHECKPOINTS
        ]
        recipes, data = Recipes(folder / "recipes"), DataFiles(folder / "data")
        self._cases += [Case(f"recipe: {what}", recipes, Written(text.encode())) for what, text in RECIPES]
        self._cases += [Case(f"data: {w}", data, Files({file: text.encode()}, file)) for w, file, text in DATA]
        self._cases += [
            Case(f"operator: {what} on {isa}", operators, Call(name, arguments, isa, 1), refused)
            for what, name, arguments, refused in _calls()
            for isa in ops.available_isas()
        ]
        self.inputs = len(self._cases)

    def make(self, number: int, rng: random.Random) -> Case:
        return self._cases[number]

    def run(self, made: Case, folder: Path) -> bool:
        worked = made.target.run(made.made, folder)
        if worked and made.refused:
            raise Finding(f"{made.name} was accepted")
        return worked

    def describe(self, made: Case) -> str:
        return f"{made.name}\n{made.target.describe(made.made)}"

    def save(self, made: Case, folder: Path) -> None:
        made.target.save(made.made, folder)


def _changed(checkpoints: Checkpoints, kind: str, change: Callable[[Manifest], None]) -> Any:
    checkpoint = checkpoints.seeds[kind].checkpoint.copy()
    change(checkpoint.manifest)
    checkpoint.vouch()
    return checkpoint


def _calls() -> list[tuple[str, str, list[Any], bool]]:
    """What, the operator, its arguments, and whether it must be refused."""
    bert = next(buffer for buffer in make_buffers() if buffer.name == "bert")
    packed, ids = tensor_of(bert.data), torch.ones(1, 3, dtype=torch.long)
    rest = [packed, ids, None, None, None, bert.n]
    wide = torch.empty(0).as_strided([0, 2**40, 2**40], [2**40, 2**40, 1])
    high = torch.empty(0).as_strided([2**62, 2, 0], [0, 0, 0])
    return [
        ("as many layers as a number can say", "encoder_hidden_states", [*rest, 2**63 - 1], True),
        ("as many layers as a header can say", "encoder_hidden_states", [*rest, 2**31 - 1], True),
        ("rows without columns", "quantize_per_token", [torch.empty(3, 0)], False),
        ("no rows, of sizes whose product is too large", "quantize_per_token", [wide], True),
        ("more rows than can be counted, without columns", "quantize_per_token", [high], True),
    ]
