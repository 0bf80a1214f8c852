"""Building a report: what is read, what is refused in words, what is written."""

import json
import os
import re
import shutil
from html.parser import HTMLParser

import pytest

from kdnative import report
from kdnative.report.read import read_run
from tests.report.run_folder import NAMES, make_run, model_row, task, write

STEP_DASHES = 4  # steps that change neither speed nor size


@pytest.fixture
def run_folder(tmp_path):
    return make_run(tmp_path / "movies")


class Structure(HTMLParser):
    """Checks that tags nest, and collects ids, attributes that load something, and text by tag."""

    VOID = {"meta", "br", "hr", "img", "link", "input", "circle", "rect", "line", "path", "polyline"}

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [v for k, v in attributes if k in ("src", "href", "srcset", "data", "action") and v[0] != "#"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def structure(path):
    found = Structure()
    found.feed(path.read_text(encoding="utf-8"))
    assert found.open == []
    return found


def test_page_is_whole_and_self_contained(run_folder):
    path = report.build(run_folder)
    assert path == run_folder / "report.html"
    page = structure(path)
    assert page.loads == []
    assert len(page.ids) == len(set(page.ids))
    source = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<)]+", source))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address that is fetched
    assert "@import" not in source and "url(" not in source


def test_every_picture_has_words(run_folder):
    source = report.build(run_folder).read_text(encoding="utf-8")
    pictures = re.findall(r"<svg.*?</svg>", source, flags=re.S)
    assert len(pictures) == 9
    for picture in pictures:
        assert re.search(r"<title id=[^>]+>[^<]+</title>", picture)
        assert re.search(r"<desc id=[^>]+>[^<]{20,}</desc>", picture)


def test_figures_are_those_of_the_run(run_folder):
    text = " ".join(structure(report.build(run_folder)).text)
    native = model_row("native")
    for expected in (
        "83.6 % [81.7, 85.5]",
        "-2.5 [-4.2, -0.8]",  # over the teacher
        "14.3",
        "0.440",
        f"{native['speedup']['value']:.1f}× [27.1, 29.6]",
        "1 min 01 s",
        "1 of 4 goals met, 1 open.",
        "open: 1,050 examples can't decide it",
        "+3.9 [+2.4, +5.4]",  # distillation
        "that 1,050 examples can show: an effect of 0.5 points would need about 24,000 of them",
        "9.32× [8.95, 9.79]",  # native kernels
        "The teacher was still improving",
        "7509",  # texts without a label
        "positive (97 %)",
    ):
        assert expected in text, expected


def test_json_holds_what_the_page_shows(run_folder):
    report.build(run_folder)
    found = json.loads((run_folder / "report.json").read_text(encoding="utf-8"))
    assert [row["key"] for row in found["summary"]["rows"]] == list(NAMES)
    assert list(found["stages"]) == ["train_teacher", "train_baseline", "distil", "evaluate", "convert", "benchmark"]
    assert found["seconds"]["convert"] == 61.25 and found["name"] == "movies"
    assert found["not_part_of_this_run"] == []


def test_stages_are_in_the_order_of_the_run_and_partial_ones_left_out(run_folder):
    """A stage that the recipe had once, and leaves out now, is no part of this run."""
    write(run_folder / "stages" / "prune" / "metrics.json", {})
    order = ["train_teacher", "train_baseline", "distil", "evaluate", "convert", "benchmark"]
    assert list(read_run(run_folder).metrics) == order
    (run_folder / "run.json").unlink()
    assert list(read_run(run_folder).metrics) == sorted([*order, "prune"])


def test_a_summary_alone_is_enough_and_the_rest_is_named_as_absent(tmp_path):
    rows = [{"key": "native", "name": "only model"}]
    write(tmp_path / "summary.json", {"task": task(), "rows": rows})
    text = " ".join(structure(report.build(tmp_path)).text)
    assert "only model" in text and "This recipe sets no goals." in text
    absent = "Goals, Did it help?, Where the speed comes from, Quality, latency and size, Calibration, "
    absent += "Where student and teacher disagree, Latency over batch size and length, Training, Modules, "
    absent += "Mixed precision, Sensitivity"
    assert f"Not part of this run: {absent}" in text


def test_figures_that_were_not_measured_are_dashes(run_folder):
    path = run_folder / "summary.json"
    summary = json.loads(path.read_text())
    for row in summary["rows"]:
        row.update(accuracy=None, macro_f1=None, agreement=None, ece=None, bytes=None, latency={}, speedup=None)
        row.update(parameters=None, kept=None, difference=None, calibration=None, native={})
    write(path, summary)
    source = report.build(run_folder).read_text(encoding="utf-8")
    assert source.count('<td class="number">–</td>') == 9 * len(NAMES) + STEP_DASHES


def test_extreme_values_are_drawn(run_folder):
    path = run_folder / "stages" / "benchmark" / "metrics.json"
    cell = {"model": "m", "batch": 1, "tokens": 1, "threads": 1, "p20": 1e-5, "p50": 1e-5, "p80": 1e-5}
    write(path, {"latency": [cell, {**cell, "tokens": 10**6, "p20": 1e7, "p50": 1e7, "p80": 1e7}]})
    points = [{"step": s, "loss": v, "validation_accuracy": 1.0} for s, v in ((0, 0.0), (10**9, -3.5e8))]
    write(run_folder / "stages" / "distil" / "metrics.json", {"history": points})
    source = report.build(run_folder).read_text(encoding="utf-8")
    assert not any("nan" in svg for svg in re.findall(r"<svg.*?</svg>", source, flags=re.S))
    assert not re.search(r'="[^"]*\b(nan|inf)\b', source)


def test_text_of_the_run_is_never_markup(run_folder):
    evil = "</script><script>alert(1)</script>\"'&"
    path = run_folder / "summary.json"
    summary = json.loads(path.read_text())
    summary["rows"][0]["name"] = evil
    summary["goals"][0]["name"] = summary["notes"][0] = summary["data"]["source"] = summary["findings"][0] = evil
    summary["examples"][0].update(texts=[evil], label=evil, teacher=evil, student=evil)
    summary["steps"][1].update(against=evil, verdict=evil, note=evil)
    write(path, summary)
    (run_folder / "recipe.yaml").write_text(evil, encoding="utf-8")
    source = report.build(run_folder).read_text(encoding="utf-8")
    assert source.count("<script>") == 1 and "alert(1)</script>" not in source
    structure(run_folder / "report.html")


def edit(run, key, value):
    path = run / "summary.json"
    write(path, {**json.loads(path.read_text()), key: value})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: shutil.rmtree(run), "no run folder at"),
        (lambda run: (run / "summary.json").unlink(), "--resume"),
        (lambda run: (run / "summary.json").write_text("{"), "can't read"),
        (lambda run: (run / "summary.json").write_text("[]"), "must hold a JSON object, found list"),
        (lambda run: write(run / "summary.json", {}), "'rows' must be a list of objects, found NoneType"),
        (lambda run: write(run / "summary.json", {"rows": []}), "no model to report on"),
        (lambda run: write(run / "summary.json", {"rows": [{"key": "x"}]}), r"rows\[0\] lacks name"),
        (lambda run: write(run / "summary.json", {"rows": [3]}), r"rows\[0\] lacks key, name"),
        (lambda run: edit(run, "steps", [{"stage": "x"}]), r"steps\[0\] lacks against, difference, verdict"),
        (lambda run: edit(run, "examples", {}), "'examples' must be a list of objects, found dict"),
        (lambda run: write(run / "stages/distil/metrics.json", {"history": [{"loss": 1}]}), r"history\[0\] lacks step"),
        (lambda run: (run / "stages/distil/stage.json").write_bytes(b"\xff\xfe"), "can't read .*stage.json"),
    ],
)
def test_damaged_runs_are_refused_in_words(run_folder, damage, words):
    damage(run_folder)
    with pytest.raises(report.ReportError, match=words):
        report.build(run_folder)
    assert not (run_folder / "report.html").exists()


def test_an_old_report_survives_a_failing_write(run_folder, monkeypatch):
    report.build(run_folder)
    before = (run_folder / "report.html").read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        report.build(run_folder)
    assert (run_folder / "report.html").read_bytes() == before
    assert not [name for name in os.listdir(run_folder) if name.endswith(".tmp")]


def test_a_gate_shows_its_trials_its_layers_and_which_one_got_more_bits(run_folder):
    page = report.build(run_folder).read_text(encoding="utf-8")
    section = page[page.index('<section id="precision"') :].partition("</section>")[0]
    assert "chosen on 256 examples; each conversion was tested on 769 other examples" in section
    trials = re.findall(r"<tr.*?</tr>", section[: section.index("<figure>")])[1:]
    assert [re.findall(r"within budget|not shown", trial)[0] for trial in trials] == ["within budget"] * 2 + [
        "not shown"
    ]
    assert [' class="strong"' in trial for trial in trials] == [False, True, False]
    assert "67 % w4a8-g64, 33 % w8a8" in trials[1]
    drawn = r'<text class="name"[^>]*>(.*?)</text>.*?<rect class="bar (s\d)".*?<text class="value"[^>]*>(.*?)</text>'
    bars = re.findall(drawn, section, re.DOTALL)
    assert [bar[0] for bar in bars] == [  # the worst first, and the one with more bits in another colour
        "pooler &lt;x&gt;", "encoder.layer.0.output.dense", "encoder.layer.0.{query,key,value}"]  # fmt: skip
    assert bars[0][2] == "3.00e-03, got w8a8" and len({bar[1] for bar in bars[1:]} - {bars[0][1]}) == 1
    assert "loss in w4a8-g64" in section and "of class negative" in section


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda gate: gate.pop("trials"), r"gate\[0\] lacks trials"),
        (lambda gate: gate["layers"][0].pop("losses"), r"gate.layers\[0\] lacks losses"),
        (lambda gate: gate.update(trials={}), "'gate.trials' must be a list"),
    ],
)
def test_a_damaged_gate_is_refused(run_folder, change, text):
    path = run_folder / "stages" / "convert" / "metrics.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content["gate"])
    write(path, content)
    with pytest.raises(report.ReportError, match=text):
        report.build(run_folder)


def test_what_a_gate_reports_is_what_the_page_reads(run_folder):
    from kdnative.precision import GateReport, Sensitivity, Trial

    rows = [
        Sensitivity(("a",), "a", scheme, 100, 50, loss) for scheme, loss in (("w4a8-g64", float("inf")), ("w8a8", 0.1))
    ]
    trial = Trial({"w8a8": 1.0}, 50, 0.1, 0.01, 0.02, True)
    made = GateReport("kl", "mean KL", 0.05, 0.9, 10, 90, rows, {"a": "w8a8"}, [trial])
    path = run_folder / "stages" / "convert" / "metrics.json"
    write(path, {"gate": json.loads(json.dumps(made.to_dict(), allow_nan=False))})
    page = report.build(run_folder).read_text(encoding="utf-8")
    assert "Budget: mean KL at most 0.05 with 90 % confidence" in page


def test_schemes_of_a_gate_are_in_the_order_of_their_bits(run_folder):
    """Whatever they lose: the bars are of the fewest bits, though 8 bits lose more in this one layer."""
    path = run_folder / "stages" / "convert" / "metrics.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["gate"] |= {"confidence": 0.995, "exact": False}
    content["gate"]["layers"][0]["losses"] = {"w8a8": 0.9, "w4a8-g64": 0.5}
    write(path, content)
    page = report.build(run_folder).read_text(encoding="utf-8")
    section = page[page.index('<section id="precision"') :].partition("</section>")[0]
    assert section.index("loss in w4a8-g64") < section.index("loss in w8a8") and "5.00e-01, got" in section
    assert "with 99.5 % confidence (approximate" in section
