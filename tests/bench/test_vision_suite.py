"""The vision suite: its networks and pictures, its processes, what it says of wrong results, and whole runs."""

import json
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

from kdnative.bench import vision, vision_child, vision_engines, vision_models, vision_processes, vision_runs
from kdnative.bench.plots import encoder_plot
from kdnative.bench.results import against_peers
from kdnative.bench.table import markdown
from kdnative.bench.vision_engine import Engine, Shared
from kdnative.bench.vision_engines import ENGINES, engine_named
from kdnative.bench.vision_models import Network, pictures, products, settle_norms_
from kdnative.bench.vision_processes import Failed


def small():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    settle_norms_(model, pictures(8, 16, 1))
    return Network(model, pictures(4, 16, 2), pictures(8, 16, 1))


@pytest.fixture
def place(tmp_path):
    network = small()
    with torch.no_grad():
        reference = network.model(network.pictures)
    return vision_runs.Place(
        Shared.write(tmp_path, network), reference, {engine.name: sys.executable for engine in ENGINES}, {}
    )


def test_products_are_counted_by_hand():
    # 16x16 pictures: 8x8 pixels of 8 x 27, 6x6 pixels of 8 x 9, and 5 x 8.
    assert products(small().model, torch.zeros(1, 3, 16, 16)) == 64 * 8 * 27 + 36 * 8 * 9 + 5 * 8


def test_norms_have_the_statistics_of_their_inputs():
    network = small()
    first, norm = network.model[0], network.model[1]
    with torch.no_grad():
        y = first(network.calibration)
    torch.testing.assert_close(norm.running_mean, y.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, y.var((0, 2, 3)), rtol=1e-2, atol=1e-5)
    assert not any(module.training for module in network.model.modules()) and norm.momentum == 0.1
    assert norm.bias.unique().tolist() == [1.0]


def test_pictures_differ_in_what_is_coarse():
    x = pictures(6, 27, 3)
    assert x.shape == (6, 3, 27, 27) and torch.equal(x, pictures(6, 27, 3)) and not torch.equal(x, pictures(6, 27, 4))
    assert x.mean((2, 3)).std() > 0.3  # of noise alone it would be 1 / 27


def test_wrong_results_are_found():
    torch.manual_seed(1)
    exact = 10 + torch.randn(8, 20)
    for kind in ("float", "int8"):
        assert vision_runs.wrong(exact + 0.1 * torch.randn(8, 20), exact, kind) == ""
        assert "off by" in vision_runs.wrong(exact.flip(0), exact, kind)
        assert "off by" in vision_runs.wrong(exact.mean(0, keepdim=True).expand(8, 20), exact, kind)
        assert "off by nan" in vision_runs.wrong(exact * float("nan"), exact, kind)
        assert "shape [8, 19], not [8, 20]" in vision_runs.wrong(exact[:, :19], exact, kind)


@pytest.mark.parametrize("name", [e.name for e in ENGINES if e.ours or (not e.packages and not e.compiled)])
def test_engines_of_torch_compute_the_network(place, name, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # before each sample: of all that the tests have loaded
    engine = engine_named(name)
    if engine.save:
        engine.save(place.shared)
    with torch.inference_mode():
        serving = vision_child.Serving(engine, place.shared, 1, [4, 1])
        found = serving.start()
        assert serving.answer({"batch": 4, "way": "whole", "least": 0.0})["seconds"] > 0
    outputs = torch.load(found["outputs"], weights_only=True)
    ways = {"1 whole", "4 whole"} if engine.ours else {"1 whole", "4 whole", "4 one by one"}
    assert set(outputs) == ways and list(found["ways"]) == ["1", "4"]
    for logits in outputs.values():
        assert vision_runs.wrong(logits, place.reference, engine.kind) == ""


def test_rows_of_a_run(monkeypatch, tmp_path):
    """The only test with processes of torch, three of them: each takes seconds to start."""
    network = small()
    monkeypatch.setattr(vision, "load_network", lambda *_: network)
    saved, lines = [], []
    result = vision.run(
        ["small"],
        [4],
        pixels=16,
        engines=[engine_named("kdnative w8a8"), engine_named("torch fp32")],
        with_memory=False,
        rounds=2,
        show=lines.append,
        save=lambda partial: saved.append(json.loads(json.dumps(partial, allow_nan=False))),
    )
    assert [(c["model"], c["threads"], c["case"]) for c in result["cases"]] == [("small", 1, "batch 4")]
    for case in result["cases"]:
        rows = {row["name"]: row for row in case["rows"]}
        assert {"kdnative w8a8"} < set(rows) <= {"kdnative w8a8", "torch fp32", "torch fp32, one by one"}
        assert all(len(row["samples"]) == 2 and min(row["samples"]) > 0 for row in rows.values())
        ours = rows["kdnative w8a8"]
        assert against_peers(ours, case["rows"]).peer["name"].startswith("torch fp32")
        assert ours["error"] < 0.1 and vision_runs.sqnr(ours) > 20
        ops = result["ceilings"][0]["int8_ops"] or 1e9
        counted = result["models"]["small"]["products"]
        assert vision_runs.share(ours, case["batch"], counted, ops) == pytest.approx(
            2 * counted * case["batch"] / (sum(ours["samples"]) / 2) / ops
        )
    assert [partial["complete"] for partial in saved] == [False, True] and saved[-1] == result
    assert any("left out: --compile" in row["reason"] for row in result["not_run"])
    text = markdown(result)
    assert "| small | 1 | 4 |" in text and "torch fp32" in text and "kdnative bench vision" in text
    encoder_plot(result, tmp_path / "v.svg")
    assert "batch 4 kdnative w8a8" in (tmp_path / "v.svg").read_text()
    assert ElementTree.parse(tmp_path / "v.svg").getroot().tag.endswith("svg")


class Inside:
    """In the place of a process, which would import torch first: its job is done here when it is read."""

    def __init__(self, python, job, variables):
        self.job = job

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read(self):
        answers = []
        vision_child.main(self.job, answers.append)
        if "error" in answers[0]:
            raise Failed(answers[0]["error"])
        return answers[0]

    def close(self):
        pass


def test_an_engine_that_fails_in_its_process_leaves_a_reason(place, monkeypatch):
    def fails(shared, *threads):
        raise RuntimeError(f"out of\n{'threads' if threads else 'space'}")

    ill = Engine("ill", "int8", fails, save=fails, file="ill")
    monkeypatch.setattr(vision_runs, "Process", Inside)
    monkeypatch.setattr(vision_engines, "ENGINES", [ill])
    place.pythons["ill"] = sys.executable
    assert vision_runs.save_files(place, [ill], 1) == (
        [],
        [{"name": "ill", "kind": "int8", "reason": "RuntimeError: out of space"}],
    )
    with vision_runs.Team(place, [ill], [1], 1) as team:
        assert team.failed == [{"name": "ill", "kind": "int8", "reason": "RuntimeError: out of threads"}]


@pytest.mark.parametrize(
    ("script", "words"),
    [("exec sleep 60", "no answer within 0 s"), ("echo first >&2; echo no int >&2; exit 3", "ended with 3: no int$")],
)
def test_processes_say_why_they_fail(tmp_path, script, words):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    seconds = 0.01 if "sleep" in script else 60
    with vision_processes.Process(str(python), {}, {}) as process, pytest.raises(Failed, match=words):
        process.read(seconds)


def test_memory_is_that_of_the_file_and_the_run(place, monkeypatch):
    if sys.platform != "linux":
        pytest.skip("sizes come from /proc")
    monkeypatch.setattr(vision_runs, "Process", Inside)
    ours, built_there = engine_named("kdnative w8a8"), engine_named("torch FX int8")
    ours.save(place.shared)
    (row,) = vision_runs.memory(place, [ours, built_there], [4], 1)
    assert (row["engine"], row["batch"], row["ours"]) == ("kdnative w8a8", 4, True) and 0 <= row["bytes"] < 1 << 28


class Fake:
    """A process that answers as told."""

    def __init__(self, path, logits, seconds):
        torch.save({f"{batch} {way}": logits for batch in seconds for way in seconds[batch]}, path)
        self.found, self.asked, self.open = {"ways": seconds, "outputs": str(path)}, [], True

    def read(self):
        return self.found

    def ask(self, request):
        self.asked.append((request["batch"], request["way"]))
        seconds = self.found["ways"][str(request["batch"])][request["way"]]
        if seconds is None:
            raise Failed("out of memory")
        return {"seconds": seconds}

    def close(self):
        self.open = False


class Steady:
    def sample(self, take):
        return take()

    def counts(self):
        return {"taken": 0, "disturbed": 0}


def team_of(monkeypatch, tmp_path, engines, isa=None):
    """A team of engines, each ``(Engine, logits, seconds)``, in front of a reference of four pictures."""
    reference = torch.eye(4)
    fakes = {e.name: Fake(tmp_path / f"{e.name}.pt", logits, seconds) for e, logits, seconds in engines}
    monkeypatch.setattr(vision_runs.Place, "process", lambda place, engine, *_: fakes[engine.name])
    place = vision_runs.Place(Shared(tmp_path), reference, {}, {}, isa)
    return vision_runs.Team(place, [e for e, _, _ in engines], [4], 1), fakes


def test_ways_that_are_much_slower_are_not_measured_and_wrong_engines_not_at_all(monkeypatch, tmp_path):
    right, ways = torch.eye(4), {"4": {"whole": 1.0, "one by one": 1.2}}
    near, far, mixed = (Engine(name, "float", None) for name in ("near", "far", "mixed"))
    team, fakes = team_of(
        monkeypatch,
        tmp_path,
        [(near, right, ways), (far, right, {"4": {"whole": 3.0, "one by one": 2.0}}), (mixed, right.flip(0), ways)],
    )
    with team:
        case = team.case(4, 2, 60.0, Steady())
    assert [row["name"] for row in case["rows"]] == ["near", "near, one by one", "far, one by one"]
    assert [row["samples"] for row in case["rows"]] == [[1.0, 1.0], [1.2, 1.2], [2.0, 2.0]]
    assert {row["agreement"] for row in case["rows"]} == {1.0} and {row["error"] for row in case["rows"]} == {0.0}
    (failed,) = team.failed
    assert failed["name"] == "mixed" and failed["reason"].startswith("4 whole: wrong result: off by")
    assert not any(fake.open for fake in fakes.values()) and fakes["mixed"].asked == []


def test_an_engine_that_fails_later_leaves_a_reason(monkeypatch, tmp_path):
    engines = [
        (Engine("well", "int8", None), torch.eye(4), {"4": {"whole": 1.0}}),
        (Engine("ill", "int8", None), torch.eye(4), {"4": {"whole": 1.0}}),
    ]
    team, fakes = team_of(monkeypatch, tmp_path, engines)
    fakes["ill"].found["ways"]["4"] = {"whole": None}
    monkeypatch.setattr(team, "_turns", lambda batch: [("well", "whole"), ("ill", "whole")])
    with team:
        case = team.case(4, 3, 60.0, Steady())
    assert [(row["name"], len(row["samples"])) for row in case["rows"]] == [("well", 3)]
    assert [row["reason"] for row in team.failed] == ["while it was measured: out of memory"]


def test_engines_that_cannot_be_held_are_no_peers(monkeypatch, tmp_path):
    ways = {"4": {"whole": 1.0}}
    ours = (Engine("kdnative w8a8", "int8", None, holds=True), torch.eye(4), {"4": {"whole": 2.0}})
    held = (Engine("held", "int8", None, holds=True), torch.eye(4), {"4": {"whole": 3.0}})
    free = (Engine("free", "int8", None), torch.eye(4), ways)
    for isa, best in (("avx2", "held"), (None, "free")):
        team, _ = team_of(monkeypatch, tmp_path, [ours, held, free], isa)
        with team:
            rows = team.case(4, 1, 60.0, Steady())["rows"]
        assert against_peers(rows[0], rows).peer["name"] == best
    assert vision_processes.holding(None) == {}
    assert vision_processes.holding("avx2")["KDNATIVE_ISA"] == "avx2"


def test_which_interpreter_has_the_packages():
    here = Engine("here", "int8", None, packages=("torch",))
    gone = Engine("gone", "int8", None, packages=("torch", "no_such_package"))
    found, versions, absent = vision_processes.interpreters([here, gone], [sys.executable])
    assert found == {"here": sys.executable} and absent == ["gone"] and versions == {"torch": torch.__version__}
    assert vision._missing(gone) == 'not installed: no_such_package: pip install "kdnative[bench]"'
    assert "litert-torch executorch, in an environment of their own" in vision._missing(engine_named("litert int8"))
    with pytest.raises(ValueError, match="no Python that can be started"):
        vision_processes.interpreters([here], ["no-such-python"])


def test_engines_of_a_run():
    names = {engine.name for engine in vision.chosen(None, peers=True, compiled=False)}
    assert {"kdnative w8a8", "openvino int8", "litert int8"} < names and "torch.compile fp32" not in names
    assert [e.name for e in vision.chosen(None, peers=False, compiled=True)] == ["kdnative w8a8"]
    assert [e.name for e in vision.chosen(["torch fp32"], peers=False, compiled=False)] == ["torch fp32"]
    with pytest.raises(ValueError, match="no engine 'tvm'; there are kdnative w8a8"):
        vision.chosen(["tvm"], peers=True, compiled=True)


def test_a_folder_of_a_native_network_is_refused(monkeypatch, tmp_path):
    import kdnative
    from kdnative.pipeline.kinds.pictures import PICTURES

    network = small()
    kdnative.convert_(network.model, "w8a8", calibration=[network.calibration])
    monkeypatch.setattr(type(PICTURES), "load_saved", lambda self, path: network.model)
    with pytest.raises(ValueError, match="holds a native network.*give the folder of the float one"):
        vision_models.load_network(str(tmp_path), 16, 4)


@pytest.mark.parametrize("bad", [["--isa", "sse"], ["--batches", "0"], ["--plot", "x.png"], ["--pixels", "-1"]])
def test_wrong_usage_ends_with_2(bad, capsys):
    with pytest.raises(SystemExit) as end:
        vision.main(bad)
    assert end.value.code == 2 and bad[0] in capsys.readouterr().err
