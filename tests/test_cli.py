"""The command line: exit codes, errors in words, and that every subcommand reaches what it stands for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

import kdnative
from kdnative import doctor
from kdnative.cli import main
from tests.checkpoints import weights_file
from tests.pipeline.conftest import tiny_recipe, write_data, write_model, write_recipe
from tests.small_models import bert


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("cli") / "model", layers=1)


def fails(capsys, *arguments: str, code: int = 1) -> str:
    """The text on stderr of a call that must fail with this code and without a traceback."""
    assert main(list(arguments)) == code
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdnative {kdnative.__version__}\n"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"    {name} " in text for name in ("run", "convert", "bench", "doctor", "inspect", "report"))


@pytest.mark.parametrize(
    "arguments",
    [[], ["frob"], ["run"], ["convert", "only-one"], ["bench", "frob"], ["run", "r.yaml", "--resum"]]
    + [["run", "r.yaml", "--resume", "--overwrite"], ["run", "r.yaml", "--only", "distil", "--until", "distil"]],
)
def test_wrong_usage_is_2(capsys, arguments):
    assert "usage:" in fails(capsys, *arguments, code=2)


def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "kdnative", "frob"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "invalid choice: 'frob'" in done.stderr


@pytest.mark.parametrize("command", ["new", "convert"])
def test_stderr_has_no_warning_of_other_packages(tmp_path, model, command):
    """In a fresh process, which imports torchao and transformers for the first time."""
    pytest.importorskip("torchao")
    data = write_data(tmp_path / "data.tsv")
    arguments = {
        "new": ["new", str(data), "--teacher", str(model), "--out", str(tmp_path / "r.yaml")],
        "convert": ["convert", str(model), str(tmp_path / "out")],
    }[command]
    done = subprocess.run([sys.executable, "-m", "kdnative", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("kdnative: ")] == []


@pytest.mark.parametrize("debug", [False, True])
def test_debug_shows_the_warnings_of_other_packages(tmp_path, debug):
    code = (
        "import logging, sys, warnings\n"
        "from kdnative import cli, doctor\n"
        "def collect():\n"
        "    logging.getLogger('torchao').warning('of torchao')\n"
        "    warnings.warn_explicit('of transformers', FutureWarning, 'x.py', 1, module='transformers.utils')\n"
        "    warnings.warn_explicit('of the user', UserWarning, 'y.py', 1, module='y')\n"
        "    warnings.warn_explicit('of kdnative', UserWarning, doctor.__file__, 1, module='kdnative.doctor')\n"
        "    return {'problems': []}\n"
        "doctor.collect, doctor.describe = collect, str\n"
        f"cli.main(['doctor', *{['--debug'] * debug}])\n"
        "logging.getLogger('torchao').warning('after it')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    others = ["of torchao", "of transformers"]
    assert [text in done.stderr for text in others] == [debug, debug]
    assert "y.py:1: UserWarning: of the user" in done.stderr and "after it" in done.stderr
    assert ("kdnative: warning: of kdnative\n" in done.stderr) is not debug


def test_a_loss_that_became_nan_is_told_in_words(capsys, monkeypatch):
    def diverges(*_, **__):
        raise FloatingPointError("step 3: the loss is nan; lower lr")

    monkeypatch.setattr(kdnative.pipeline, "run", diverges)
    assert fails(capsys, "run", "r.yaml") == "kdnative: step 3: the loss is nan; lower lr\n"


def test_truncated_weights_are_told_in_words(capsys, tmp_path, model):
    broken = shutil.copytree(model, tmp_path / "model")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"{weights} is truncated or damaged" in fails(capsys, "convert", str(broken), str(tmp_path / "out"))


def test_misspelt_key(capsys, tmp_path):
    recipe = tiny_recipe(tmp_path / "model", tmp_path / "data.tsv")
    recipe["distil"]["epchs"] = 3
    path = write_recipe(tmp_path / "r.yaml", recipe)
    text = fails(capsys, "run", str(path), "--runs", str(tmp_path / "runs"))
    line = 1 + next(i for i, row in enumerate(path.read_text().splitlines()) if "epchs" in row)
    assert text == f"kdnative: r.yaml line {line}: unknown key 'epchs' in distil; did you mean 'epochs'?\n"


def test_missing_data_and_missing_recipe(capsys, tmp_path):
    path = write_recipe(tmp_path / "r.yaml", tiny_recipe(tmp_path / "model", tmp_path / "data.tsv"))
    assert "data.tsv: no such file" in fails(capsys, "run", str(path), "--runs", str(tmp_path / "runs"), "--quiet")
    assert "no recipe at" in fails(capsys, "run", str(tmp_path / "absent.yaml"))
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(kdnative.pipeline.RecipeError):
        main(["run", str(tmp_path / "absent.yaml"), "--debug"])


def test_an_interrupt_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(kdnative.pipeline, "run", interrupted)
    assert "--resume" in fails(capsys, "run", "r.yaml")


def test_run_passes_its_options_on(capsys, monkeypatch, tmp_path):
    seen = {}

    def run(recipe, **options):
        seen.update(options, recipe=recipe)
        (tmp_path / "summary.txt").write_text("the table\n")
        return tmp_path

    monkeypatch.setattr(kdnative.pipeline, "run", run)
    options = ["--resume", "--restart-changed", "--until", "distil", "--set", "a.b=1", "--set", "c=2", "--quiet"]
    assert main(["run", "r.yaml", "--runs", "elsewhere", *options]) == 0
    assert seen == {
        "recipe": "r.yaml",
        "runs": "elsewhere",
        "resume": True,
        "overwrite": False,
        "restart_changed": True,
        "only": None,
        "until": "distil",
        "overrides": ["a.b=1", "c=2"],
        "progress": False,
        "quiet": True,
    }
    assert "the table" not in capsys.readouterr().out  # that of an earlier, whole run
    assert main(["run", "r.yaml"]) == 0
    assert "the table" in capsys.readouterr().out


def test_one_stage_then_the_next(capsys, model, tmp_path):
    """A real run through the command line, stage by stage."""
    recipe = tiny_recipe(model, write_data(tmp_path / "data.tsv"))
    recipe["train_teacher"]["max_steps"] = 1
    recipe["student"]["layers"] = 1
    path = str(write_recipe(tmp_path / "r.yaml", recipe))
    runs = ["--runs", str(tmp_path / "runs"), "--quiet"]
    assert main(["run", path, *runs, "--until", "train_teacher"]) == 0
    assert main(["run", path, *runs, "--only", "compress_teacher"]) == 0
    assert (tmp_path / "runs" / "tiny" / "stages" / "compress_teacher" / "soft_labels.safetensors").is_file()
    assert "already holds a run" in fails(capsys, "run", path, *runs)


def test_convert_then_inspect(capsys, model, tmp_path):
    out = tmp_path / "native"
    assert main(["convert", str(model), str(out), "--scheme", "w4a8-g64"]) == 0
    assert "w4a8-g64" in capsys.readouterr().out
    native, (plain, tokenizer) = kdnative.load(out), kdnative.pipeline.models.load_any(model)
    inputs = tokenizer(["the film was good"], return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        a, b = (m.eval()(**inputs).last_hidden_state for m in (native, plain))
    assert torch.nn.functional.cosine_similarity(a, b, dim=-1).min() > 0.9
    assert (out / "tokenizer.json").is_file()

    assert main(["inspect", str(out)]) == 0
    assert "w4a8-g64" in capsys.readouterr().out
    assert main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["file_bytes"] == weights_file(out).stat().st_size


def test_convert_a_sentence_transformer(capsys, tmp_path):
    """With what comes behind the encoder."""
    library, parts = map(pytest.importorskip, ("sentence_transformers", "sentence_transformers.models"))
    bert(kind="BertModel").save_pretrained(tmp_path / "bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "was", "good", "bad"]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words))
    kinds = parts.Transformer(str(tmp_path / "bert")), parts.Pooling(64), parts.Normalize()
    whole, out = library.SentenceTransformer(modules=kinds, device="cpu"), tmp_path / "native"
    whole.save(str(tmp_path / "st"))
    assert main(["convert", str(tmp_path / "st"), str(out)]) == 0
    assert f"model = SentenceTransformer({str(out)!r})" in capsys.readouterr().out
    import kdnative.transformers  # noqa: F401

    again = library.SentenceTransformer(str(out), device="cpu")
    texts = ["the film was good", "bad"]
    a, b = again.encode(texts), whole.encode(texts)
    assert a.shape == b.shape and abs((a * a).sum(1) - 1).max() < 1e-5 and (a * b).sum(1).min() > 0.99

    kdnative.save(kdnative.convert_(bert(kind="BertModel")).model, tmp_path / "encoder")
    with pytest.raises(kdnative.CheckpointError, match=r"part 0.\S+ is: load\(path, into=model.get_submodule"):
        kdnative.load(tmp_path / "encoder", into=whole)

    (tmp_path / "st" / "modules.json").write_text('[{"type": "os.system", "path": "", "idx": 0, "name": "0"}]')
    assert "names 'os.system', which sentence-transformers does not have" in fails(
        capsys, "convert", str(tmp_path / "st"), str(tmp_path / "x")
    )


def test_convert_keeps_what_exists(capsys, model, tmp_path):
    out = tmp_path / "native"
    assert main(["convert", str(model), str(out)]) == 0
    capsys.readouterr()
    assert "--overwrite" in fails(capsys, "convert", str(model), str(out))
    assert main(["convert", str(out), str(tmp_path / "again")]) == 0  # a kdnative checkpoint is an input too
    assert main(["convert", str(model), str(out), "--overwrite", "--scheme", "w4a8-g32"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scheme", "w3a8"], "unknown scheme 'w3a8'"),
        (["--keep", "no.such.layer"], "no.such.layer"),
    ],
)
def test_convert_refuses_in_words(capsys, model, tmp_path, arguments, words):
    assert words in fails(capsys, "convert", str(model), str(tmp_path / "out"), *arguments)
    assert not (tmp_path / "out").exists()


def test_missing_inputs(capsys, tmp_path):
    assert "absent" in fails(capsys, "convert", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert "kdnative.json" in fails(capsys, "inspect", str(tmp_path))
    assert fails(capsys, "report", str(tmp_path / "absent"))


def test_unknown_architecture(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["NoSuchModel"], "model_type": "bert"}')
    assert "NoSuchModel" in fails(capsys, "convert", str(tmp_path), str(tmp_path / "out"))


def test_bench_forwards_its_options(monkeypatch):
    import kdnative.bench.gemm

    seen = []
    monkeypatch.setattr(kdnative.bench.gemm, "main", lambda arguments: seen.append(arguments))
    assert main(["bench", "gemm", "--json", "out.json", "--help"]) == 0
    assert seen == [["--json", "out.json", "--help"]]


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "no problem found" in text and kdnative.ops.isa() in text and torch.__version__ in text
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"holds {', '.join(kdnative.ops.built_isas())}\n" in text
    assert found["native"]["built"] == kdnative.ops.built_isas() and found["native"]["megabytes"] > 0.1
    assert found["native"]["kernels"].keys() == set(kdnative.ops.OPERATORS)
    assert found["extras"]["pipeline"]["pydantic"] is not None and found["problems"] == []


def test_doctor_shows_a_forced_instruction_set():
    environment = {**os.environ, "KDNATIVE_ISA": "reference"}
    command = [sys.executable, "-m", "kdnative", "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "reference, forced by KDNATIVE_ISA=reference" in done.stdout
    assert re.findall(r"^  encoder_layers +(.*)$", done.stdout, re.M) == ["reference"]


def test_doctor_reports_an_impossible_instruction_set():
    environment = {**os.environ, "KDNATIVE_ISA": "neon9"}
    command = [sys.executable, "-m", "kdnative", "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "PROBLEM" in done.stdout and "neon9" in done.stdout


def test_doctor_reports_a_build_for_tests(capsys, monkeypatch):
    assert kdnative.ops.emulates_amx() is False
    monkeypatch.setattr(kdnative.ops, "emulates_amx", lambda: True)
    assert main(["doctor"]) == 1
    assert "PROBLEM: this build emulates AMX tiles in software" in capsys.readouterr().out


def _gpu_text(**gpu):
    """What doctor says of the kernels for GPUs, where it found this."""
    found = doctor.collect()
    return dict(re.findall(r"^(gpu \w+) +(.*)$", doctor.describe({**found, "gpu": {**found["gpu"], **gpu}}), re.M))


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("12.9", " (driver 525 or newer; PTX for newer devices: a driver of CUDA 12.9 or newer)"),
        ("13.0", " (driver 580 or newer; PTX for newer devices: a driver of CUDA 13.0 or newer)"),
        (None, ""),
    ],
)
def test_doctor_says_which_drivers_load_the_kernels(by, words):
    compiled = {"w8a8": [80, 90], "blocks": [80]}
    text = _gpu_text(compiled=compiled, compiled_by=by, nvrtc="12.9", nvrtc_error=None)["gpu kernels"]
    assert text == f"compiled for capability 8.0, 9.0{words}; NVRTC 12.9 compiles for other devices"
    text = _gpu_text(compiled={}, nvrtc="12.9", nvrtc_error=None)["gpu kernels"]
    assert text == "sources; NVRTC 12.9 compiles them at first use"


def test_doctor_says_why_a_driver_has_no_devices():
    text = _gpu_text(driver={"cuda": "12.4"}, devices=[], driver_error="the CUDA driver refused to count devices")
    assert text["gpu driver"] == "of CUDA 12.4: the CUDA driver refused to count devices"


def test_doctor_finds_a_gpu_that_is_too_old(capsys, monkeypatch):
    monkeypatch.setattr(kdnative._C, "cuda_driver", lambda: ("libcuda.so.1", 12040))
    monkeypatch.setattr(kdnative._C, "cuda_devices", lambda: [("Tesla T4", 75, 40), ("A100", 80, 108)])
    assert main(["doctor"]) == 1
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PROBLEM")]
    assert len(problems) == 1 and "Tesla T4 has compute capability 7.5" in problems[0]


def test_doctor_finds_an_old_torch_and_missing_extras(capsys, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    monkeypatch.setattr(doctor, "installed", lambda module: module != "tqdm")
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "torch 2.9.1+cpu is too old: kdnative needs torch >=2.10" in text
    assert 'missing tqdm: pip install "kdnative[pipeline]"' in text


def test_a_missing_extra_says_how_to_get_it(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "r.yaml").write_text("name: x\n")
    assert 'pip install "kdnative[pipeline]"' in fails(capsys, "run", str(tmp_path / "r.yaml"))


def test_doctor_needs_no_extra():
    """What is missing is what doctor is for."""
    code = (
        "import sys\n"
        "for name in ('accelerate', 'transformers', 'pydantic', 'scipy', 'yaml', 'tqdm'): sys.modules[name] = None\n"
        "from kdnative.cli import main\n"
        "sys.exit(main(['doctor', '--json']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["extras"]["pipeline"].values()) == {None}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["new", "--help"]])
def test_helps_name_every_task(capsys, arguments):
    from kdnative.tasks import TASKS

    assert main(arguments) == 0
    text = re.sub(r"-\s+", "-", capsys.readouterr().out)  # argparse breaks lines at hyphens
    assert all(name in text for name in TASKS)
