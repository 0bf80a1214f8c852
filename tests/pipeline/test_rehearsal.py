"""What a recipe asks of its data and models and can't get: refused before any stage, with nothing left behind."""

from __future__ import annotations

import copy
import logging
import shutil
from pathlib import Path

import pytest
import torch

import kdnative
from kdnative.pipeline import PipelineError, RunFolder, load_recipe
from kdnative.pipeline.rehearsal import rehearse
from kdnative.pipeline.stages import Shared
from kdnative.prune import shrink_shapes_, structured_
from tests.pipeline.conftest import changed, write_model, write_recipe

ROOT = Path(__file__).parents[2]
DEEP = "the deep student"  # stands for a folder that the test makes
STAGES = ("train_teacher", "compress_teacher", "train_baseline", "distil", "prune", "recover", "convert", "evaluate")
STAGES += ("benchmark", "report")


def rehearsed(recipe: dict, place: Path, without: tuple[str, ...] = (), later: tuple[str, ...] = ()) -> list[str]:
    """The rehearsal alone, of all stages but some that count as finished, and some that another call is to run."""
    parsed = load_recipe(write_recipe(place / "r.yaml", recipe))
    stages = [stage for stage in parsed.active_stages() if stage.name not in (*without, *later)]
    behind = [stage for stage in parsed.active_stages() if stage.name in later]
    return rehearse(parsed, stages, RunFolder(place / "absent"), Shared(parsed), behind)


def write_encoder(folder: Path, tiny: dict, family: str, **sizes) -> Path:
    """A random encoder of another family, with the miniature's tokenizer."""
    import transformers

    shutil.copytree(tiny["teacher"]["source"], folder)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=45, pad_token_id=0, **sizes)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_given_up(caplog):
    """Every model of these tests can be rehearsed to the end: an error on the way is one of the rehearsal."""
    caplog.set_level(logging.DEBUG, logger="kdnative.pipeline.rehearsal")
    yield
    assert not given_up(caplog.get_records("call"))


def given_up(records) -> list[str]:
    return [record.getMessage() for record in records if record.name == "kdnative.pipeline.rehearsal"]


@pytest.fixture(scope="module")
def modern(tiny, tmp_path_factory) -> Path:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    special = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    return write_encoder(tmp_path_factory.mktemp("modern") / "model", tiny, "ModernBert", **sizes, **special)


@pytest.fixture(scope="module")
def unknown(tiny, tmp_path_factory) -> Path:
    """A model of a family that the table does not have."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return write_encoder(tmp_path_factory.mktemp("unknown") / "model", tiny, "FNet", **sizes)


REFUSED = {
    "student.layers, numbers": (
        {"student": {"layers": [0, 3]}},
        r"^student\.layers: layers=\[0, 3\]; ascending indices from 0 to 2",
    ),
    "student.layers, a count": (
        {"student": {"layers": 4}},
        r"^student\.layers: layers=4; the model has 3 layers, so 1 to 3 can be kept; null copies all",
    ),
    "layer_map, student": (
        {"distil": {"layer_map": {"1": 1, "3": 3}}},
        r"^distil\.layer_map: the student has no position 3: "
        r"positions are 0 \(the embeddings\) to 2 \(the last layer\)",
    ),
    "layer_map, teacher": (
        {"recover": {"hidden_weight": 1.0, "layer_map": {"1": 4}}},
        r"^recover\.layer_map: the teacher has no position 4: "
        r"positions are 0 \(the embeddings\) to 3 \(the last layer\)",
    ),
    "layer_map of what prune leaves": (
        {"prune": {"layers": 1, "hidden_weight": 1.0, "layer_map": {"2": 3}}},
        r"^prune\.layer_map: the student has no position 2",
    ),
    "a deeper student": (
        {"student": {"source": DEEP, "layers": None}},
        r"^distil\.hidden_weight: 4 student layers cannot be spread over 3 teacher layers; "
        r"map the layers in distil\.layer_map",
    ),
    "too few class_weights": (
        {"train_teacher": {"class_weights": [1.0]}},
        r"^train_teacher\.class_weights: 1 values are given, but the data has 2 classes \(negative, positive\): give",
    ),
    "too many class_weights": (
        {"prune": {"class_weights": [1.0, 2.0, 3.0]}},
        r"^prune\.class_weights: 3 values are given, but the data has 2 classes",
    ),
    "top_k": (
        {"compress_teacher": {"top_k": 3}},
        r"^compress_teacher\.top_k=3: within 1 and the number of classes, 2; null keeps",
    ),
    "prune.layers": ({"prune": {"layers": [0, 2]}}, r"^prune\.layers: layers=\[0, 2\]; ascending indices from 0 to 1"),
    "groups": (
        {"recover": {"schemes": {"*.output.dense": "w4a8-g128"}}},
        r"^recover\.schemes: bert\.\S+\.output\.dense: scheme w4a8-g128 needs in_features divisible by .* got 64; use",
    ),
    "recover.schemes": (
        {"recover": {"schemes": {"*.qurey": "w8a8"}}},
        r"^recover\.schemes: pattern '\*\.qurey' matches no module; the names are: bert",
    ),
    "recover.clip": (
        {"recover": {"schemes": "w4a8-g64-int", "clip": "learn"}},
        r"^recover\.schemes: .*clip='learn' has no gradient for the integer scales",
    ),
    "convert.keep": ({"convert": {"keep": ["*.clasifier"]}}, r"^convert\.keep: pattern '\*\.clasifier' matches no"),
    "convert.schemes": ({"convert": {"schemes": {"*.qurey": "w8a8"}}}, r"^convert\.schemes: pattern '\*\.qurey'"),
    "convert.schemes of a gone layer": (
        {"prune": {"layers": 1}, "convert": {"schemes": {"*.layer.1.*": "w8a8"}}},
        r"^convert\.schemes: pattern '\*\.layer\.1\.\*' matches no module",
    ),
    "convert.schemes against recover.schemes": (
        {"recover": {"schemes": "w8a8"}, "convert": {"schemes": {"*.query": "w4a8-g64", "*": "w8a8"}}},
        r"^convert\.schemes: \S+\.query: it was trained for w8a8, but w4a8-g64 is given: give the scheme it was",
    ),
    "groups in convert": (
        {"recover": None, "convert": {"schemes": {"*.output.dense": "w4a8-g128"}}},
        r"^convert\.schemes: \S+\.output\.dense: scheme w4a8-g128 needs in_features divisible",
    ),
    "native_schemes": (
        {"evaluate": {"native_schemes": {"*.qurey": "w8a8"}}},
        r"^evaluate\.native_schemes: pattern '\*\.qurey' matches no module",
    ),
    "max_length": (
        {"data": {"max_length": 65}},
        r"^data\.max_length is 65, but the teacher \(\S+\) reads at most 64 tokens: set it to 64 or less",
    ),
    "benchmark.tokens": (
        {"benchmark": {"tokens": 65}},
        r"^benchmark\.tokens is 65, but the teacher \(\S+\) reads at most 64 tokens: give 64 or less",
    ),
    "benchmark.grid_tokens": (
        {"benchmark": {"grid_tokens": [8, 70, 16]}},
        r"^benchmark\.grid_tokens holds 70, but the teacher \(\S+\) reads at most 64 tokens",
    ),
    "an unknown package": ({"student": {"source": "package:minilm", "layers": None}}, r"^student\.source: .*packaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_stage(tiny, tmp_path, monkeypatch, case):
    import transformers

    def loaded(*_, **__):
        raise AssertionError("weights were loaded")

    sections, words = copy.deepcopy(REFUSED[case])
    if sections.get("student", {}).get("source") == DEEP:
        sections["student"]["source"] = str(write_model(tmp_path / "deep", layers=4))
    recipe = write_recipe(tmp_path / "r.yaml", changed(tiny, **sections))
    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", loaded)
    with pytest.raises(PipelineError, match=words):
        kdnative.run(recipe, runs=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


def test_balanced_weights_need_every_class(tiny, tmp_path):
    """One example of a third class, which the hash of its text puts outside of the training split."""
    rows = Path(tiny["data"]["source"]).read_text(encoding="utf-8")
    recipe = changed(tiny, data={"source": str(tmp_path / "data.tsv")}, distil={"class_weights": "balanced"})
    path = write_recipe(tmp_path / "r.yaml", recipe)
    for number in range(100):
        (tmp_path / "data.tsv").write_text(f"{rows}the film {number} of {number}\tmixed\n", encoding="utf-8")
        if not Shared(load_recipe(path)).data.train.counts["mixed"]:
            break
    with pytest.raises(
        PipelineError, match="distil.class_weights is 'balanced', but the training split has no 'mixed'"
    ):
        kdnative.run(path, runs=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"student": {"layers": 1}}, r"^student\.layers: FNet\w+ has nothing that layers could prune"),
        ({"prune": {"layers": 1}}, r"^prune\.layers: FNet\w+ has nothing that layers could prune"),
        ({"prune": {"heads": 0.5}}, r"^prune\.heads: FNet\w+ has nothing that heads could prune"),
        ({"prune": {"ffn": 0.5}}, r"^prune\.ffn: FNet\w+ has nothing that ffn could prune"),
    ],
)
def test_a_student_of_unknown_parts(tiny, unknown, tmp_path, sections, words):
    plain = changed(tiny, teacher={"source": str(unknown)}, student={"layers": None}, prune={"ffn": 0.0})
    plain["recover"]["schemes"] = "w8a8"
    rehearsed(plain, tmp_path)
    path = write_recipe(tmp_path / "r.yaml", changed(plain, **sections))
    with pytest.raises(PipelineError, match=words):
        kdnative.run(path, runs=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("prune", [{"layers": 1}, {"heads": 0.5, "multiple_of": 32}, {"ffn": 0.5}])
def test_a_modernbert_is_pruned(tiny, modern, tmp_path, prune):
    recipe = changed(tiny, teacher={"source": str(modern)}, student={"layers": 2}, prune={"ffn": 0.0, **prune})
    recipe["recover"]["schemes"] = "w8a8"
    rehearsed(recipe, tmp_path)


def test_a_teacher_that_is_no_classifier(tiny, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32}
    source = str(write_encoder(tmp_path / "clip", tiny, "CLIPText", **sizes))
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, teacher={"source": source}))
    with pytest.raises(
        PipelineError, match="^teacher.source: .* is a 'clip_text_model' model, and transformers has no"
    ):
        kdnative.run(path, runs=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "sections",
    [
        {"distil": {"hidden_weight": 0.0, "layer_map": {"9": 9}}},  # not read
        {"distil": {"epochs": 0, "layer_map": {"9": 9}}},  # nothing is trained
        {"distil": {"hard_weight": 0.0, "class_weights": [1.0]}},
        {"train_baseline": {"epochs": 0, "class_weights": [1.0]}},
        {"student": {"layers": 3}, "distil": {"layer_map": {"0": 0, "3": 3}}},
        {"compress_teacher": {"top_k": 2}},
        {"prune": {"ffn": 0.0}, "recover": {"schemes": {"*.output.dense": "w4a8-g32"}}},
        {"convert": {"keep": ["*embeddings*", "classifier", "bert.pooler"]}},
        {"convert": {"schemes": {"*.word_embeddings": None, "re:.*query": "w8a8", "*": "w4a8-g64"}}},
        {
            "recover": {"schemes": "w8a8"},
            "convert": {"schemes": {"*": "w4a8-g64"}},
        },  # no effect, and the report says so
        {"recover": {"schemes": "w8a8"}, "convert": {"schemes": "w4a8-g128"}},  # `*` where groups do not fit: in float
        {"teacher": {"source": "hub:nobody/has-this"}},
        {"student": {"source": "hub:nobody/has-this", "layers": 40}},
    ],
)
def test_never_refused_wrongly(tiny, tmp_path, sections):
    rehearsed(changed(tiny, **sections), tmp_path)


def test_the_pruned_widths_count(tiny, tmp_path):
    """128 neurons are one group, the 64 that pruning leaves are not."""
    schemes = {"*.layer.*.output.dense": "w8a8", "bert.encoder.layer.0.output.dense": "w4a8-g128"}
    wide = changed(tiny, prune={"ffn": 0.0}, recover={"schemes": dict(reversed(schemes.items()))})
    rehearsed(wide, tmp_path)
    with pytest.raises(PipelineError, match=r"^recover\.schemes: .*got 64; use"):
        rehearsed(changed(wide, prune={"ffn": 0.5}), tmp_path)


def test_only_models_that_are_needed_are_looked_for(tiny, tmp_path, monkeypatch):
    """Not those of the hub, which would be asked, and not a student's that no stage of this call starts from."""
    asked = []
    monkeypatch.setattr("kdnative.data.model_path", lambda source: asked.append(source) or tiny["teacher"]["source"])
    later = ("train_baseline", "distil", "prune", "recover", "convert", "evaluate", "benchmark", "report")
    student = {"source": "package:minilm-l6", "layers": None}
    rehearsed(changed(tiny, teacher={"source": "hub:a/b"}), tmp_path)
    assert asked == []
    rehearsed(changed(tiny, teacher={"source": "hub:a/b"}, student=student), tmp_path, without=later)
    assert asked == []
    monkeypatch.setattr("kdnative.data.packages.is_here", lambda source: not source.startswith("package:"))
    rehearsed(changed(tiny, student=student), tmp_path, later=later)
    assert set(asked) == {tiny["teacher"]["source"]}
    asked.clear()
    rehearsed(changed(tiny, teacher={"source": "hub:a/b"}, student=student), tmp_path)
    assert set(asked) == {"package:minilm-l6"}


@pytest.mark.parametrize("family", ["Bert", "MPNet", "DistilBert"])
def test_shapes_without_values_are_those_of_pruning(family):
    import transformers

    sizes = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 320}
    if family == "DistilBert":
        sizes = {"dim": 96, "n_layers": 3, "n_heads": 6, "hidden_dim": 320}
    config = getattr(transformers, f"{family}Config")(vocab_size=50, **sizes)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.device("meta"):
        empty = transformers.AutoModelForSequenceClassification.from_config(copy.deepcopy(config))
    how = {"heads": 0.4, "ffn": 0.3, "layers": [0, 2], "multiple_of": 32}
    structured_(model, example_inputs={"input_ids": torch.arange(5)[None]}, **how)
    shrink_shapes_(empty, **how)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in empty.state_dict().items()}
    assert empty.config.num_hidden_layers == model.config.num_hidden_layers == 2


def test_finished_stages_are_not_judged(tiny, tmp_path, caplog):
    """They ran, so they could; and what is left is judged on its own."""
    wrong = changed(tiny, student={"layers": 9}, train_teacher={"class_weights": [1.0]}, convert={"keep": ["nothing"]})
    rehearsed(
        wrong,
        tmp_path,
        without=tuple(stage.name for stage in load_recipe(write_recipe(tmp_path / "r.yaml", wrong)).active_stages()),
    )
    finished = ("train_teacher", "compress_teacher", "train_baseline", "distil")
    rehearsed(wrong, tmp_path, without=finished)
    assert given_up(caplog.records)  # nobody knows how the student came to be
    caplog.clear()
    with pytest.raises(PipelineError, match=r"^convert\.keep"):
        rehearsed(changed(wrong, student={"layers": 2}), tmp_path, without=finished)


@pytest.mark.parametrize("options", [{"until": "train_teacher"}, {"only": "train_teacher"}])
def test_a_part_of_a_recipe_that_can_not_work_is_not_begun(tiny, tmp_path, options):
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, student={"layers": 9}, train_teacher={"epochs": 0}))
    with pytest.raises(PipelineError, match=r"^student\.layers: layers=9"):
        kdnative.run(path, runs=tmp_path / "runs", progress=False, **options)
    assert not (tmp_path / "runs").exists()


def test_a_part_without_data_does_not_need_them(tiny, tmp_path):
    """The benchmark may run where the data is not, and is judged by the models alone."""
    others = tuple(stage for stage in STAGES if stage not in ("benchmark", "report"))
    recipe = changed(tiny, data={"source": "not here.tsv"}, distil={"class_weights": [1.0]})
    rehearsed(recipe, tmp_path, without=others, later=("report",))
    with pytest.raises(PipelineError, match=r"^benchmark\.tokens is 100"):
        rehearsed(changed(recipe, benchmark={"tokens": 100}), tmp_path, without=others, later=("report",))


def test_restarting_judges_what_will_run_again(tiny, tmp_path, monkeypatch):
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, train_teacher={"epochs": 0}))
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}
    run = RunFolder(kdnative.run(path, **options))
    with monkeypatch.context() as patch:
        patch.setattr("kdnative.data.model_path", lambda source: pytest.fail("nothing is to run"))
        kdnative.run(path, resume=True, **options)
        kdnative.run(path, resume=True, restart_changed=True, **options)
    write_recipe(path, changed(tiny, train_teacher={"class_weights": [1.0]}))
    with pytest.raises(PipelineError, match=r"^train_teacher\.class_weights"):
        kdnative.run(path, resume=True, restart_changed=True, **options)
    assert run.record("train_teacher") is not None


def test_a_new_start_does_not_delete_what_it_can_not_replace(tiny, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", changed(tiny, train_teacher={"epochs": 0}))
    options = {"runs": tmp_path / "runs", "until": "train_teacher", "progress": False}
    run = RunFolder(kdnative.run(path, **options))
    write_recipe(path, changed(tiny, train_teacher={"class_weights": [1.0]}))
    with pytest.raises(PipelineError, match=r"^train_teacher\.class_weights"):
        kdnative.run(path, overwrite=True, **options)
    assert run.record("train_teacher") is not None


def test_an_unexpected_failure_lets_the_run_go_on_and_is_logged(tiny, tmp_path, monkeypatch, caplog):
    import transformers

    def fails(*_, **__):
        raise RuntimeError("not on the meta device")

    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_config", fails)
    rehearsed(changed(tiny, student={"layers": 9}), tmp_path)
    assert given_up(caplog.records) == [
        "the stages that follow could not be checked",
        "1 checks could not be made: the stages that follow",
    ]
    assert "not on the meta device" in caplog.text
    caplog.clear()


@pytest.mark.parametrize("name", ["movies", "movies-all-labels", "movies-mpnet"])
def test_the_recipes_that_come_along(name, monkeypatch, tmp_path):
    """On configurations of the same families and sizes: the models themselves may have to be downloaded."""
    import transformers

    sizes = {"package:minilm-l6": ("Bert", 384, 6), "package:mpnet-base": ("MPNet", 768, 12)}
    for source, (family, width, layers) in sizes.items():
        config = getattr(transformers, f"{family}Config")
        config(
            hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width, architectures=[f"{family}Model"]
        ).save_pretrained(tmp_path / source.partition(":")[2])
    monkeypatch.setattr("kdnative.data.model_path", lambda source: str(tmp_path / source.partition(":")[2]))
    monkeypatch.setattr("kdnative.pipeline.rehearsal._check_tokenizers", lambda *_: None)  # not there either
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml")
    shared = Shared(recipe)
    shared.__dict__["data"] = kdnative.data.DataSplits(
        *(
            kdnative.data.Dataset([kdnative.data.Example({"text": "a", "label": 0}, "1")], ("negative", "positive"))
            for _ in range(3)
        )
    )
    rehearse(recipe, recipe.active_stages(), RunFolder(tmp_path / "absent"), shared)
    wrong = recipe.model_copy(update={"convert": recipe.convert.model_copy(update={"keep": ["nothing"]})})
    with pytest.raises(PipelineError, match=r"^convert\.keep: pattern 'nothing'"):  # it went all the way
        rehearse(wrong, wrong.active_stages(), RunFolder(tmp_path / "absent"), shared)
