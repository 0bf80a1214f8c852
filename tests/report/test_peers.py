"""The student in other engines: the gain as a product, by hand, and files that are none."""

import html
import json

import pytest

from kdnative import report
from kdnative.report.peers import split
from tests.report.run_folder import engines, make_run, write


def test_the_gain_is_a_product_over_the_fastest_other_engine():
    (case,) = engines()["cases"]
    found = split(case)
    values = {name: ratio["value"] for name, ratio in found.items() if name != "engine"}
    assert found["engine"] == "openvino int8"
    assert values == pytest.approx({"total": 24, "smaller_model": 3, "engine_gain": 4, "native_kernels": 2})


def test_where_torch_is_the_fastest_other_engine_it_has_no_factor():
    (case,) = engines()["cases"]
    case["rows"] = [row for row in case["rows"] if row["name"] != "openvino int8"]
    found = split(case)
    assert found["engine"] == "torch fp32" and found["engine_gain"] is None
    assert found["native_kernels"]["value"] == pytest.approx(8) and found["smaller_model"]["value"] == pytest.approx(3)


def changed(key, value):
    """A file whose native student has another value."""
    content = engines()
    content["cases"][0]["rows"][-1][key] = value
    if key == "peer_of":  # of a peer
        content["cases"][0]["rows"][1][key] = value
    return content


@pytest.mark.parametrize("left_out", [["teacher, torch fp32"], ["kdnative w8a8"], ["torch fp32", "openvino int8"]])
def test_without_one_of_the_parts_there_is_no_product(left_out):
    (case,) = engines()["cases"]
    case["rows"] = [row for row in case["rows"] if row["name"] not in left_out]
    assert split(case) is None


def test_the_report_shows_them_where_they_were_measured(tmp_path):
    run = make_run(tmp_path / "movies")
    assert "another engine" not in report.build(run).read_text(encoding="utf-8")
    write(run / "peers.json", engines())
    page = report.build(run).read_text(encoding="utf-8")
    assert "another engine: the student in torch fp32 over the same in openvino int8" in page
    (found,) = json.loads((run / "report.json").read_text(encoding="utf-8"))["engines"]
    assert found["batch"] == 1 and found["native_kernels"]["value"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"suite": "gemm", "cases": []}, "is not a result of `kdnative bench model RUN --peers --json`"),
        ({"suite": "model_peers", "cases": [{"batch": 1}]}, "cases[0] lacks tokens, threads, rows"),
        (
            {"suite": "model_peers", "cases": [{"batch": 1, "tokens": 1, "threads": 1, "rows": [{"name": "x"}]}]},
            "rows[0] lacks kind, ours, samples",
        ),
        (changed("samples", [1.0]), "a case can't be compared: "),
        (changed("samples", ["x"] * 3), "a case can't be compared: "),
        (changed("peer_of", 3), "a case can't be compared: "),
        ([], "must hold a JSON object"),
    ],
)
def test_another_file_is_a_note_and_no_failed_report(tmp_path, content, words):
    run = make_run(tmp_path / "movies")
    write(run / "peers.json", content)
    page = html.unescape(report.build(run).read_text(encoding="utf-8"))
    assert "The figures of other engines are left out: " in page and words in page
    assert json.loads((run / "report.json").read_text(encoding="utf-8"))["engines"] == []
