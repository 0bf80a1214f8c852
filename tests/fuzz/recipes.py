"""Target: recipes that are no recipes, in :func:`kdnative.pipeline.recipe.load_recipe`."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kdnative.pipeline.recipe import RecipeError, dump_recipe, load_recipe
from tests.fuzz.mutate import change_bytes, change_text, change_tree, few, values_by_key
from tests.fuzz.target import Finding
from tests.fuzz.words import CANARY, TEXTS
from tests.pipeline.conftest import tiny_recipe

__all__ = ["LAUGHS", "Recipes", "Written"]

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
"""Twelve short lines that stand for 10^11 values."""

_PIECES = [
    *TEXTS,
    *("&a ", "*a", "<<: *a\n", "&a [*a, *a]", "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", LAUGHS),
    *("!!float x", "!!int x", "!!binary x", "!!timestamp x", "!!set {a}", "!!omap [a]", "!foo", "!"),
    "!!python/object/apply:os.system [true]",
    f"!!python/module:{CANARY}",
    f"!!python/object/new:{CANARY}.x []",
    *("? [a, b]\n: c\n", "? {a: b}\n", "? |\n  x\n: y\n", "---\n", "...\n", "%YAML 9.9\n", "- ", "|\n", ">-\n"),
    *("{", "}", "[", "]", "@", "`", "=", "~", "yes", "off", "\t", "\x85", "\u2028"),
    *("2001-02-30", "12:30:45", "0o17", "0b1", "1_000_000", ".inf", "-.inf", ".nan"),
    *("[" * 3000, "{a: " * 300, "- " * 2000),
]
_OVERRIDES = [
    *("distil.epochs=3", "name=x", "data.split=[1, 0, 0]", "recover=null", "prune={}", "convert.schemes={a: w8a8}"),
    *("seed=!!float x", "a", "=", ".=1", "..", "a.b.c.d=1", "name.x=1", "data=[", "data.source=&a [*a]", "seed=&a *a"),
    "distil.layer_map={0: 1}",
]


@dataclass
class Written:
    """A recipe's file, and settings of the command line."""

    data: bytes
    overrides: list[str] = field(default_factory=list)


class Recipes:
    """See :class:`tests.fuzz.target.Target`."""

    inputs = None

    def __init__(self, folder: Path) -> None:
        files = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
        tiny = tiny_recipe(Path("model"), Path("data.tsv"))
        self._texts = [file.read_text(encoding="utf-8") for file in files] + [json.dumps(tiny, indent=1)]
        folder.mkdir()
        for number, text in enumerate(list(self._texts)):  # with every default filled in
            (folder / f"{number}.yaml").write_text(text, encoding="utf-8")
            self._texts.append(dump_recipe(load_recipe(folder / f"{number}.yaml")))
        self._trees = [yaml.safe_load(text) for text in self._texts]
        self._pool = values_by_key(self._trees)

    def make(self, number: int, rng: random.Random) -> Written:
        which = rng.randrange(len(self._texts))
        if rng.random() < 0.4:
            tree = json.loads(json.dumps(self._trees[which]))
            for _ in range(few(rng)):
                if tree:
                    change_tree(rng, tree, self._pool)
            data = json.dumps(tree).encode()  # JSON is YAML
        else:
            text = self._texts[which]
            for _ in range(few(rng)):
                text = change_text(rng, text, _PIECES)
            data = text.encode("utf-8", "surrogatepass")
            data = data if rng.random() < 0.9 else change_bytes(rng, data)
            data = data if rng.random() < 0.98 else text.encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")), "ignore")
        overrides = []
        for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 1, 3))):
            text = rng.choice(_OVERRIDES)
            overrides.append(text if rng.random() < 0.5 else change_text(rng, text, _PIECES))
        return Written(data, overrides)

    def run(self, made: Written, folder: Path) -> bool:
        file = folder / "recipe.yaml"
        file.write_bytes(made.data)
        try:
            recipe = load_recipe(file, made.overrides)
        except RecipeError as error:
            if not str(error).strip():
                raise Finding("an error without words") from error
            return False
        file.write_text(dump_recipe(recipe), encoding="utf-8")
        if load_recipe(file) != recipe:
            raise Finding("a recipe that was read, written and read again is another one")
        return True

    def describe(self, made: Written) -> str:
        return f"{made.data[:3000]!r}\noverrides {made.overrides!r}"

    def save(self, made: Written, folder: Path) -> None:
        folder.mkdir()
        (folder / "recipe.yaml").write_bytes(made.data)
        (folder / "overrides.json").write_text(json.dumps(made.overrides))
