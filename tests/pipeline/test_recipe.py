"""Recipes: defaults, round trips, and errors that name key, line and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from kdnative.pipeline import RecipeError, dump_recipe, load_recipe
from kdnative.pipeline.schema import Recipe
from kdnative.pipeline.sections import Section
from kdnative.pipeline.stages import recipe_class

ROOT = Path(__file__).parents[2]
SMALL = "name: small\ndata: {source: a.tsv}\nteacher:\n  source: b\n"


def read(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text, *overrides)
    return str(caught.value)


def test_defaults_fill_in_and_survive_a_round_trip(tmp_path):
    recipe = read(tmp_path, SMALL)
    assert recipe.distil.temperature == 2.0 and recipe.prune is None and recipe.student.source == "teacher"
    assert read(tmp_path, dump_recipe(recipe)) == recipe


def sections(of: type[Section], prefix: str = "") -> dict[str, type[Section]]:
    """The classes of a recipe and of all sections in it, by their place."""
    found = {prefix: of}
    for name, key in of.model_fields.items():
        for kind in (key.annotation, *get_args(key.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                found |= sections(kind, f"{prefix}{name}.")
    return found


def test_every_key_says_what_it_means():
    """The reference of recipes and `kdnative new` show these sentences."""
    found = sections(recipe_class())
    assert {"", "data.", "distil.", "compress_teacher.prune."} <= found.keys()
    described = {place + name: key.description for place, of in found.items() for name, key in of.model_fields.items()}
    assert [name for name, text in described.items() if not text or not text.strip().endswith(".")] == []


def test_exponents_without_a_dot_are_numbers(tmp_path):
    """YAML 1.1 reads 5e-5 as a text, which every writer of recipes runs into."""
    assert read(tmp_path, SMALL + "distil: {lr: 5e-5}\n").distil.lr == 5e-5


def test_layer_map_keys_are_integers(tmp_path):
    recipe = read(tmp_path, SMALL + "distil: {layer_map: {1: 2, 2: 4}}\n")
    assert recipe.distil.layer_map == {1: 2, 2: 4}
    assert read(tmp_path, dump_recipe(recipe)) == recipe


def test_stages_can_be_left_out(tmp_path):
    recipe = read(tmp_path, SMALL + "recover: null\nprune: null\ntrain_baseline: null\n")
    assert recipe.recover is None
    assert recipe.student_before("convert") == "distil" and recipe.final_schemes() == "w8a8"


@pytest.mark.parametrize(
    ("sections", "before"),
    [("prune: {}\n", {"recover": "prune", "convert": "recover"}), ("", {"recover": "distil", "convert": "recover"})],
)
def test_chain_of_students(tmp_path, sections, before):
    recipe = read(tmp_path, SMALL + sections)
    assert {stage: recipe.student_before(stage) for stage in before} == before


def test_overrides_apply_on_top(tmp_path):
    recipe = read(tmp_path, SMALL, "distil.epochs=7", "prune.ffn=0.5", "name=other", "recover=null")
    assert (recipe.distil.epochs, recipe.prune.ffn, recipe.name, recipe.recover) == (7, 0.5, "other", None)


def test_misspelt_key_names_the_nearest_and_the_line(tmp_path):
    text = message(tmp_path, SMALL + "distil:\n  lr: 0.1\n  epchs: 3\n")
    assert text == "recipe.yaml line 7: unknown key 'epchs' in distil; did you mean 'epochs'?"


def test_misspelt_section(tmp_path):
    assert "unknown key 'distill' in the recipe; did you mean 'distil'?" in message(tmp_path, SMALL + "distill: {}\n")


def test_unlike_key_lists_what_is_allowed(tmp_path):
    assert "allowed: kept, size_ratio, speedup_bf16, speedup_teacher" in message(tmp_path, SMALL + "goals: {q: 1}\n")


def test_every_problem_is_reported_at_once(tmp_path):
    text = message(tmp_path, SMALL + "distil: {epchs: 3}\nprune: {heads: 1.5}\n")
    assert "'epchs'" in text and "prune.heads" in text and "1.5" in text


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("recover: {schemes: w9a8}\n", ("line 5", "recover.schemes", "unknown scheme 'w9a8'", "w4a8-gG")),
        ("recover: {schemes: {'*': w4a8-g65}}\n", ("recover.schemes", "w4a8-g64")),
        ("recover: {schemes: {}}\n", ("recover.schemes", "empty")),
        ("distil: {epochs: many}\n", ("distil.epochs", "'many'", "integer")),
        ("distil: {epochs: -1}\n", ("distil.epochs", "-1")),
        ("distil: {soft_weight: 0, hard_weight: 0}\n", ("distil", "at least one of them above 0")),
        ("student: {layers: [2, 1]}\n", ("student.layers", "ascending", "[2, 1]")),
        ("device: gpu\n", ("device", "'gpu'", "'cuda'")),
        ("distil: 3\n", ("distil", "must be a table of keys", "epochs")),
        ("prune: true\n", ("prune", "must be a table of keys")),
        ("seed: 1\nseed: 2\n", ("line 6", "seed", "already given in line 5")),
        ("distil: {lr: .inf}\n", ("line 5", "distil.lr", "finite", "inf")),
        ("distil: {soft_weight: .nan}\n", ("distil.soft_weight", "finite", "nan")),
        ("train_teacher: {lr: nan}\n", ("train_teacher.lr", "finite")),  # a text in YAML
        ("train_teacher: {class_weights: [1.0, .inf]}\n", ("train_teacher.class_weights", "finite")),
        ("goals: {size_ratio: .inf}\n", ("goals.size_ratio", "finite")),
        ("train_teacher: {epochs: yes}\n", ("line 5", "train_teacher.epochs", "a number is needed, got True")),
        ("seed: false\n", ("seed", "a number is needed, got False")),
        ("distil: {hidden_weight: true}\n", ("distil.hidden_weight", "a number is needed, got True")),
        ("student: {layers: [true, 2]}\n", ("student.layers", "a number is needed, got True")),
        ("benchmark: {grid_tokens: [8, on]}\n", ("benchmark.grid_tokens", "a number is needed, got True")),
        ("student: {layers: [1, 1]}\n", ("student.layers", "without repeats", "[1, 1]")),
        ("student: {layers: [-1, 1]}\n", ("student.layers", "greater than or equal to 0", "-1")),
        ("threads: 1000000000\n", ("line 5", "threads: at most ", "processors, got 1000000000")),
        ("benchmark: {threads: 1000000000}\n", ("benchmark.threads: at most ",)),
        ("benchmark: {batch: 1000000000}\n", ("benchmark.batch: at most 65,536 sentences at once, got 1000000000",)),
        ("benchmark: {grid_batches: [1, 70000]}\n", ("benchmark.grid_batches.1: at most 65,536 sentences",)),
        ("benchmark: {tokens: 2000000}\n", ("benchmark.tokens: at most 1,048,576 tokens in one sentence",)),
        ("benchmark: {repeats: 4}\n", ("benchmark.repeats",)),
        ("benchmark: {repeats: 1000000}\n", ("benchmark.repeats: at most 100,000 samples",)),
        ("recover: {batch_size: 1000000000000}\n", ("recover.batch_size: at most 65,536 sentences at once",)),
        ("evaluate: {batch_size: 100000}\n", ("evaluate.batch_size: at most 65,536 sentences",)),
        ("compress_teacher: {batch_size: 100000}\n", ("compress_teacher.batch_size: at most 65,536 sentences",)),
        ("prune: {calibration_batches: 1000000}\n", ("prune.calibration_batches: at most 100,000 batches",)),
        ("distil: {epochs: 1000000}\n", ("distil.epochs: at most 100,000 epochs",)),
        ("student: {layers: 1000000000000}\n", ("student.layers: at most 10,000 layers",)),
        ("seed: 9999999999\n", ("seed: at most 4,294,967,295, got 9999999999",)),
        ("prune: {layers: [2, 2]}\n", ("prune.layers", "without repeats", "[2, 2]")),
        ("prune: {layers: [1, 0]}\n", ("prune.layers", "ascending", "[1, 0]")),
        ("distil: {epochs: 0, soft_weight: 0, hard_weight: 0}\n", ("distil", "at least one of them above 0")),
        ("distil: {early_stopping: 0}\n", ("distil.early_stopping", "greater than or equal to 1")),
        (
            "distil: {early_stopping: 2, select_best: false}\n",
            ("early_stopping is 2, but select_best is false",),
        ),
        ("distil: {select_by: loss, select_best: false}\n", ("distil: select_by is 'loss', but select_best is false",)),
        ("distil: {accumulate: 0}\n", ("distil.accumulate", "greater than or equal to 1")),
        ("distil: {select_by: f1}\n", ("distil.select_by is 'f1', but the task", "accuracy, macro_f1, loss, kl: give")),
        (
            "train_teacher: {select_by: kl}\n",
            ("select_by is 'kl', but a stage without a teacher offers only",),
        ),
        ("task: text-regression\ndistil: {select_by: accuracy}\n", ("pearson, spearman, rmse, loss, teacher_mse",)),
    ],
)
def test_wrong_values_in_words(tmp_path, added, expected):
    text = message(tmp_path, SMALL + added)
    assert all(part in text for part in expected), text


def test_limits_leave_room_for_what_people_do(tmp_path):
    text = SMALL + "threads: 192\nseed: 20260101\nprune: {calibration_batches: 5000}\n"
    text += "train_teacher: {epochs: 1000, batch_size: 8192, max_steps: 10000000}\n"
    text += "benchmark: {batch: 4096, tokens: 131072, threads: 1024, repeats: 10000}\n"
    assert read(tmp_path, text).benchmark.tokens == 131072


def test_switches_are_still_booleans(tmp_path):
    recipe = read(tmp_path, SMALL + "distil: {amp: true, select_best: no}\nreport: {html: off}\n")
    assert (recipe.distil.amp, recipe.distil.select_best, recipe.report.html) == (True, False, False)


TOP_K = SMALL + "compress_teacher: {top_k: 2, temperature: 4}\nrecover: null\n"


def test_temperatures_of_top_k_soft_labels_must_agree(tmp_path):
    text = message(tmp_path, TOP_K + "prune: {temperature: 3}\n")
    for part in ("compress_teacher.temperature is 4.0", "distil.temperature is 2.0", "prune.temperature is 3.0"):
        assert part in text


@pytest.mark.parametrize(
    "sections",
    [
        "distil: {temperature: 4}\n",
        "distil: {temperature: 4}\nprune: {epochs: 0}\n",  # trains nothing
        "distil: {soft_weight: 0}\n",  # does not read soft labels
    ],
)
def test_temperatures_that_never_meet(tmp_path, sections):
    assert read(tmp_path, TOP_K + sections).compress_teacher.temperature == 4


@pytest.mark.parametrize("change", ["compress_teacher.top_k=null", "compress_teacher.temperature=null"])
def test_temperatures_without_a_remaining_mass(tmp_path, change):
    assert read(tmp_path, TOP_K, change).distil.temperature == 2.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must hold 'key: value' lines"),
        ("- 1\n", "must hold"),
        ("name: [\n", "not valid YAML"),
        ("name: x\n", "data"),
    ],
)
def test_what_is_no_recipe(tmp_path, text, expected):
    assert expected in message(tmp_path, text)


def test_name_cannot_leave_the_runs_folder(tmp_path):
    assert "name" in message(tmp_path, SMALL, "name=../elsewhere")


@pytest.mark.parametrize("override", ["distil", "distil.=1", "=1", "name.x=1", "distil.epochs=["])
def test_wrong_overrides(tmp_path, override):
    assert message(tmp_path, SMALL, override)


def test_missing_and_undecodable_files(tmp_path):
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(tmp_path / "absent.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(RecipeError, match="can't read"):
        load_recipe(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("name", ["movies", "movies-all-labels", "movies-mpnet"])
def test_shipped_recipes_are_valid(name):
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    assert recipe.name == name
    assert read_back(recipe) == recipe


def read_back(recipe: Recipe) -> Recipe:
    import yaml

    return recipe_class().model_validate(yaml.safe_load(dump_recipe(recipe)))
