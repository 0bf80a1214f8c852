"""Saved students through transformers, in fresh processes: the same bits, or an error, and never random weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

import kdnative as kd  # noqa: E402
from tests.transformers import students  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    students.save_all(folder)
    return folder


def fresh(folder, how, tmp_path):
    command = [sys.executable, "-m", "tests.transformers.fresh", str(folder), how]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1].partition("[y/N] ")[2] or done.stdout.splitlines()[-1])


@pytest.mark.parametrize("how", ["import", "trust"])
def test_auto_classes_and_pipelines(folder, how, tmp_path):
    found = fresh(folder, how, tmp_path)
    classifiers = dict.fromkeys(("full", "pruned", "pruned_float", "four_bits"), "BertForSequenceClassification")
    pipeline = found.pop("pipeline")
    sentences = {name: found.pop(name) for name in [*found] if name.startswith("sentences ")}
    assert set(sentences.values()) <= {"same"}, sentences
    images = {"vit": "ViTForImageClassification", "mobilenet": "StudentForImageClassification"}
    assert found == {**classifiers, "encoder": "Encoder", **images}
    assert isinstance(pipeline, list) and len(pipeline) == 3, pipeline


def test_without_the_import_there_is_an_error(folder, tmp_path):
    found = fresh(folder, "nothing", tmp_path)
    assert "OSError" in found.pop("BertModel")  # its own class finds no weights that it knows
    assert len(found) >= 5
    for name, text in found.items():
        assert text.startswith("ValueError") and "trust_remote_code=True" in text, (name, text)


def test_a_tokenizer_is_read_without_a_question(folder, tmp_path):
    """After kd.load, without the import: nobody is asked about code in the folder, and there is no warning of it."""
    code = f"""
import builtins, kdnative as kd
from transformers import AutoModelForSequenceClassification, AutoTokenizer
builtins.input = lambda text: 1 / 0
model = kd.load({str(folder / "full")!r})
print(AutoTokenizer.from_pretrained({str(folder / "full")!r})(["a cat"])["input_ids"])
print(type(AutoModelForSequenceClassification.from_pretrained({str(folder / "full")!r})).__name__)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "HF_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["[[2, 4, 9, 3]]", "BertForSequenceClassification"], done.stderr
    assert "kdnative" not in done.stderr


def test_the_configuration_says_what_the_folder_holds(folder):
    for name, scheme in (("full", ["w8a8"]), ("four_bits", ["w4a8-g64"]), ("mobilenet", ["w8a8"])):
        config = json.loads((folder / name / "config.json").read_text())
        assert config["model_type"] == "kdnative"
        assert config["quantization_config"] == {"quant_method": "kdnative", "schemes": scheme}
        assert list(config["id2label"].values()) == ["bad", "fair", "good"]


def test_tampered_files_beside_the_checkpoint_run_nothing(folder, tmp_path):
    """kd.load reads neither config.json nor the file of code."""
    import shutil

    shutil.copytree(folder / "full", tmp_path / "s")
    (tmp_path / "s" / "configuration_kdnative.py").write_text("raise SystemExit('code of a checkpoint ran')")
    (tmp_path / "s" / "config.json").write_text("{")
    model = kd.load(tmp_path / "s")
    assert torch.equal(students.text_logits(model), torch.load(folder / "expected.pt")["full"])


class Loaded:
    """In this process."""

    @pytest.fixture(autouse=True)
    def registered(self):
        import kdnative.transformers  # noqa: F401


class TestErrors(Loaded):
    def test_another_head(self, folder):
        with pytest.raises(ValueError, match=r"is a BertForSequenceClassification, which AutoModelForTokenClassif"):
            transformers.AutoModelForTokenClassification.from_pretrained(folder / "full")

    def test_another_number_of_labels(self, folder):
        with pytest.raises(ValueError, match="has 3 outputs, and 5 labels"):
            transformers.AutoModelForSequenceClassification.from_pretrained(folder / "full", num_labels=5)

    def test_a_second_conversion(self, folder):
        from kdnative.transformers import KDNativeConfig

        with pytest.raises(ValueError, match="is a native student already"):
            transformers.AutoModel.from_pretrained(folder / "full", quantization_config=KDNativeConfig())

    def test_an_unknown_option(self, folder):
        with pytest.raises(TypeError, match="takes no colour"):
            transformers.AutoModel.from_pretrained(folder / "full", colour="red")

    def test_truncated_weights(self, folder, tmp_path):
        import shutil

        shutil.copytree(folder / "full", tmp_path / "s")
        weights = next((tmp_path / "s").glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(kd.CheckpointError, match="safetensors"):
            transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")

    def test_made_from_a_configuration_alone(self, folder):
        config = transformers.AutoConfig.from_pretrained(folder / "full")
        with pytest.raises(ValueError, match="made from its files"):
            transformers.AutoModel.from_config(config)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"auto_map": {"AutoConfig": "evil.Config"}}, "elsewhere"),
            ({"hidden_size": 10**12}, "at most"),
            ({"model_type": "evil"}, "not one that is built from a file"),
        ],
    )
    def test_a_hostile_configuration(self, folder, tmp_path, changes, words):
        config = json.loads((folder / "full" / "config.json").read_text())
        config["base_config"].update(changes)
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=words):
            transformers.AutoConfig.from_pretrained(tmp_path)

    def test_an_unknown_scheme(self):
        from kdnative.transformers import KDNativeConfig

        with pytest.raises(ValueError, match="w3a8"):
            KDNativeConfig("w3a8")


class TestOptions(Loaded):
    def test_labels_and_types(self, folder):
        auto = transformers.AutoModelForSequenceClassification
        model, info = auto.from_pretrained(
            folder / "full", id2label={0: "x", 1: "y", 2: "z"}, dtype=torch.bfloat16, output_loading_info=True
        )
        assert model.config.id2label == {0: "x", 1: "y", 2: "z"} and info["missing_keys"] == []
        assert students.text_logits(model).dtype == torch.bfloat16
        assert transformers.AutoTokenizer.from_pretrained(folder / "full")(["a cat"])["input_ids"] == [[2, 4, 9, 3]]

    def test_settings_reach_the_model(self, folder):
        auto = transformers.AutoModelForSequenceClassification
        changes = {"problem_type": "multi_label_classification", "classifier_dropout": 0.25, "use_cache": False}
        config = auto.from_pretrained(folder / "full", **changes, variant=None).config
        assert {name: getattr(config, name) for name in changes} == changes
        inputs = students.tokenizer()(students.TEXTS[:1], return_tensors="pt")
        encoder = transformers.AutoModel.from_pretrained(folder / "encoder", output_hidden_states=True)
        assert len(encoder(**inputs).hidden_states) == 3
        assert transformers.AutoModel.from_pretrained(folder / "encoder")(**inputs).hidden_states is None
        with pytest.raises(ValueError, match="has hidden_size 64, which belongs to its weights"):
            auto.from_pretrained(folder / "full", hidden_size=128)

    def test_from_the_hub(self, folder, monkeypatch):
        import huggingface_hub

        seen = {}

        def snapshot(name, **options):
            seen.update(options, name=name)
            return str(folder / "full")

        config = transformers.AutoConfig.from_pretrained(folder / "full")
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        auto = transformers.AutoModelForSequenceClassification
        model = auto._model_mapping[type(config)].from_pretrained("me/student", config=config, revision="v1")
        assert seen["name"] == "me/student" and seen["revision"] == "v1"
        assert torch.equal(students.text_logits(model), torch.load(folder / "expected.pt")["full"])

    @pytest.mark.parametrize("name", ["full", "encoder"])
    def test_to_the_hub(self, folder, name, monkeypatch):
        """The same folder, with its tokenizer and card."""
        import huggingface_hub

        sent = {}

        class Api:
            def __init__(self, token=None):
                sent["token"] = token

            def create_repo(self, name, private=None, exist_ok=False):
                return type("Repo", (), {"repo_id": f"me/{name}"})

            def upload_folder(self, folder_path, **options):
                sent.update(options, files={f.name: f.read_bytes() for f in Path(folder_path).iterdir()})

        monkeypatch.setattr(huggingface_hub, "HfApi", Api)
        (folder / name / "README.md").write_text("# a card")
        kd.load(folder / name).push_to_hub("student", token="secret", max_shard_size="1GB")
        assert sent["repo_id"] == "me/student" and sent["token"] == "secret"
        assert sent["files"].pop("README.md") == b"# a card"
        (folder / name / "README.md").unlink()
        there = {f.name: f.read_bytes() for f in (folder / name).iterdir()}
        manifests = sent["files"].pop("kdnative.json"), there.pop("kdnative.json")
        assert sent["files"] == there and all(manifests)


class TestConversionWhileLoading(Loaded):
    def test_the_same_bits_as_convert(self, tmp_path):
        from kdnative.transformers import KDNativeConfig

        students.bert().save_pretrained(tmp_path / "float")
        auto = transformers.AutoModelForSequenceClassification
        settings = KDNativeConfig({"*attention*": "w8a8", "*": "w4a8-g64"}, method="rtn", embeddings=None)
        model = auto.from_pretrained(tmp_path / "float", quantization_config=settings)
        other = auto.from_pretrained(tmp_path / "float")
        kd.convert_(other, {"*attention*": "w8a8", "*": "w4a8-g64"}, method="rtn", embeddings=None)
        assert torch.equal(students.text_logits(model), students.text_logits(other))
        assert model.config.quantization_config.scheme["*"] == "w4a8-g64"
        model.save_pretrained(tmp_path / "native")
        again = auto.from_pretrained(tmp_path / "native")
        assert torch.equal(students.text_logits(again), students.text_logits(other))

    def test_its_own_class_refuses_a_native_folder(self, folder):
        with pytest.raises((OSError, ValueError)):
            transformers.BertForSequenceClassification.from_pretrained(folder / "full")


class TestTimm(Loaded):
    def test_preprocessing_and_labels_stay(self, tmp_path):
        timm = pytest.importorskip("timm")
        model = timm.create_model("mobilenetv2_050", num_classes=2).eval()
        model.pretrained_cfg["label_names"] = ["cat", "dog"]
        transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
        pixels = transform(students.picture(3))[None]
        kd.convert_(model, "w8a8", calibration=[pixels])
        assert model.classes == ("cat", "dog")
        torch.testing.assert_close(model.preprocess(students.picture(3)), pixels, rtol=0, atol=1e-6)
        kd.save(model, tmp_path / "m")
        run = transformers.pipeline("image-classification", model=str(tmp_path / "m"))
        with torch.inference_mode():
            wanted = model(model.preprocess(students.picture(3))).softmax(-1)[0]
        assert {row["label"]: round(row["score"], 5) for row in run(students.picture(3))} == {
            name: round(float(p), 5) for name, p in zip(("cat", "dog"), wanted, strict=True)
        }

    def test_a_network_without_names_has_numbered_labels(self, tmp_path):
        timm = pytest.importorskip("timm")
        model = timm.create_model("mobilenetv2_050", num_classes=4).eval()
        kd.convert_(model, "w8a8", calibration=[torch.randn(1, 3, 224, 224)])
        kd.save(model, tmp_path / "m")
        assert list(transformers.AutoConfig.from_pretrained(tmp_path / "m").id2label.values()) == [
            "LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"
        ]  # fmt: skip
