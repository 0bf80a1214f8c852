"""``kdnative bench texts``: real sentences through ``SentenceTransformer.encode``, ours against its other backends.

Everything that a user of sentence-transformers pays for is part of the time: tokenizing, sorting by length, padding,
the model, pooling. The cases are ``one by one``, a call for each sentence, and ``batches of 32``, one call for all,
which sentence-transformers sorts by length before it cuts batches.

The result, as JSON: ``{"suite": "texts", "environment", "versions", "model", "data", "sentences", "cases",
"not_run"}``. A case has ``case``, ``threads``, ``cores`` and ``rows``, see `kdnative.bench.results`; a sample is all
sentences once.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnative.bench.accuracy import DATA, MODEL, sentences
from kdnative.bench.encoder_candidates import COARSE
from kdnative.bench.options import add_output, add_peers, add_threads, names, positive
from kdnative.bench.peers import (
    Candidate,
    Check,
    Prepared,
    kind_of,
    prepare_all,
    quiet,
    relative_error,
    split_by_installed,
    versions,
)
from kdnative.bench.results import (
    LEGEND,
    Case,
    against_peers,
    cores_line,
    median,
    not_run_lines,
    quantiles,
    start_line,
    summary_lines,
    timed_row,
)
from kdnative.bench.round_trip import MOST, round_trip_, rounded, rounded_input, rounded_weight
from kdnative.bench.steady import SteadyCores, int8_speed
from kdnative.extras import require
from kdnative.formats.scheme import Scheme
from kdnative.machine.environment import environment, rerun_clean, write_result
from kdnative.machine.timer import interleave, torch_threads

BATCH = 32
CASES = {"one by one": 1, f"batches of {BATCH}": BATCH}
_FLOAT = 0.05  # relative error of embeddings in bf16, which costs 0.02
_OURS = 0.35  # the most for ours, as for encoders


@dataclass
class Texts:
    """Sentences, and an embedder that every engine makes its own form of.

    Attributes:
        model: a SentenceTransformer in fp32; candidates never change it.
        folder: that it was loaded from.
        texts: to encode.
        batch: sentences in a batch; 1 gives each one a call.
        threads: of every engine.
        made: engines that are built already, by name.
    """

    model: Any
    folder: str
    texts: Sequence[str]
    batch: int
    threads: int = 1
    made: dict[str, Any] = field(default_factory=dict)

    def build(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make()`` returned the first time."""
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def place(self, name: str) -> str:
        """An empty folder for an exported model; removed with what was built."""
        return self.build(f"folder of {name}", lambda: tempfile.TemporaryDirectory(prefix="kdnative-bench-")).name

    def encode(self, model: Any) -> Tensor:
        """Embeddings of all sentences, fp32 ``[texts, H]``."""
        if self.batch == 1:
            return torch.stack([torch.as_tensor(model.encode(text, show_progress_bar=False)) for text in self.texts])
        found = model.encode(list(self.texts), batch_size=self.batch, show_progress_bar=False)
        return torch.as_tensor(found)

    @functools.cached_property
    def reference(self) -> Tensor:
        return self.encode(self.model).float()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    text = "Real sentences through SentenceTransformer.encode."
    parser = argparse.ArgumentParser(prog="kdnative bench texts", description=text, allow_abbrev=False)
    parser.add_argument("--model", default=MODEL, help=f"package:NAME, hub:NAME or a folder (default: {MODEL})")
    parser.add_argument("--data", default=DATA, help=f"as in a recipe (default: {DATA})")
    parser.add_argument("--sentences", type=positive, default=256, help="how many (default: 256)")
    parser.add_argument("--schemes", type=names, default="w8a8", help="such as w8a8,w4a8-g64 (default: w8a8)")
    add_peers(parser, compiled=False)
    add_threads(parser)
    add_output(parser)
    options = parser.parse_args(argv)
    again = rerun_clean(__spec__.name, argv)
    if again is not None:
        return again
    from kdnative.data import model_path

    folder = str(model_path(options.model))
    library = require("sentence_transformers", "this benchmark")
    result = run(
        library.SentenceTransformer(folder, device="cpu", local_files_only=True),
        folder,
        sentences(options.data, options.sentences),
        schemes=options.schemes,
        peers=options.peers,
        threads=options.threads,
        rounds=options.rounds,
        show=lambda line: print(line, flush=True),
    )
    result |= {"model": options.model, "data": options.data}
    if options.json:
        write_result(options.json, result)
    return 0


def run(
    model: Any,
    folder: str,
    texts: Sequence[str],
    *,
    schemes: Sequence[str] = ("w8a8",),
    peers: bool = True,
    threads: int = 1,
    rounds: int = 9,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Encodes the sentences with every engine.

    Args:
        model: a SentenceTransformer, fp32, on the CPU.
        folder: that it was loaded from.
        texts: the sentences.
        schemes: ours.
        peers: compare with the other backends.
        threads: of every engine.
        rounds: samples of each.
        show: called with each line of the report.

    Returns:
        The result, see the head of this module (without ``model`` and ``data``).
    """
    ready, absent = split_by_installed([*map(_ours, schemes), *(PEERS if peers else [])])
    result: dict[str, Any] = {
        "suite": "texts",
        "environment": environment(threads),
        "versions": versions([Candidate("", "", lambda case: case, ("sentence_transformers",)), *ready]),
        "sentences": len(texts),
        "cases": [],
        "not_run": [{**row, "case": "all"} for row in absent],
    }
    show(start_line(result["environment"]))
    made: dict[str, Any] = {}
    with torch_threads(threads), torch.inference_mode(), quiet():
        cores = SteadyCores(int8_speed(threads))
        for name, batch in CASES.items():
            case = Texts(model, folder, texts, batch, threads, made)
            prepared, errors, failed = prepare_all(ready, case, case.reference, _checks(case))
            calls = {name: p.call for name, p in prepared.items()}
            timings = interleave(calls, rounds=rounds, round_seconds=0.0, warmup=1, cores=cores)
            rows = [timed_row(c, timings[c.name], errors[c.name]) for c in ready if c.name in timings]
            result["cases"].append({"case": name, "threads": threads, "cores": cores.counts(), "rows": rows})
            result["not_run"] += [{**row, "case": name} for row in failed]
            show(_table(result["cases"][-1], len(texts)))
    lines = [LEGEND, *not_run_lines(result["not_run"]), *cores_line(result["cases"])]
    for line in [*lines, *summary_lines(map(as_case, result["cases"]))]:
        show(line)
    return result


def _checks(case: Texts) -> Callable[[Candidate[Texts]], Check]:
    """What each candidate has to return: see `kdnative.bench.encoder_checks`."""

    def check(candidate: Candidate[Texts]) -> Check:
        if not candidate.ours:
            return Check(case.reference, MOST if candidate.kind == COARSE else _FLOAT)
        scheme = Scheme.parse(candidate.scheme)

        def make() -> Any:
            model = copy.deepcopy(case.model)
            weight, x = (
                functools.partial(rounded_weight, scheme=scheme),
                functools.partial(rounded_input, scheme=scheme),
            )
            round_trip_(model[0].auto_model, weight, x, embeddings=lambda table: rounded(table, 8))
            return model

        found = case.encode(case.build(f"rounded to {scheme}", make)).float()
        return Check(found, min(2 * relative_error(found, case.reference), _OURS))

    return check


def _candidate(
    name: str, kind: str, make: Callable[[Texts], Any], packages: tuple[str, ...] = (), scheme: str = ""
) -> Candidate[Texts]:
    def prepare(case: Texts) -> Prepared:
        model = case.build(name, lambda: make(case))
        return Prepared(lambda: case.encode(model), lambda y: y.float())

    ours = ("int8", "int4", "int2", "w8a16", "w4a16", "w2a16")
    also = () if scheme else tuple(k for k in ours if k != kind)
    return Candidate(name, kind, prepare, packages, ours=bool(scheme), also=also, scheme=scheme)


def _ours(scheme: str) -> Candidate[Texts]:
    def make(case: Texts) -> Any:
        from kdnative import convert_

        return convert_(copy.deepcopy(case.model), scheme, method="rtn").model

    return _candidate(f"kdnative {scheme}", kind_of(scheme), make, scheme=scheme)


def _onnx(case: Texts, folder: str, **options: Any) -> Any:
    import onnxruntime as ort
    from sentence_transformers import SentenceTransformer

    settings = ort.SessionOptions()
    settings.intra_op_num_threads = case.threads
    given = {"provider": "CPUExecutionProvider", "session_options": settings, **options}
    return SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs=given, local_files_only=True)


def _openvino(case: Texts, folder: str, **options: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    config = {"INFERENCE_NUM_THREADS": case.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    given = {"ov_config": config, **options}
    return SentenceTransformer(folder, backend="openvino", device="cpu", model_kwargs=given, local_files_only=True)


def _onnx_int8(case: Texts) -> Any:
    from sentence_transformers import export_dynamic_quantized_onnx_model

    flags = set(environment()["flags"])
    preset = "avx512_vnni" if "avx512_vnni" in flags else "avx2" if "avx2" in flags else "arm64"
    plain = case.build("sentence-transformers onnx", lambda: _onnx(case, case.folder, export=True))
    folder = case.place("onnx")
    plain.save_pretrained(folder)
    export_dynamic_quantized_onnx_model(plain, preset, folder)
    (file,) = (path for path in Path(folder).rglob("*.onnx") if "qint8" in path.name or "quint8" in path.name)
    return _onnx(case, folder, file_name=str(file.relative_to(folder)))


def _openvino_int8(case: Texts) -> Any:
    from sentence_transformers import export_static_quantized_openvino_model

    plain = case.build("sentence-transformers openvino", lambda: _openvino(case, case.folder, export=True))
    folder = case.place("openvino")
    plain.save_pretrained(folder)
    quantization = importlib.import_module("optimum.intel").OVQuantizationConfig(num_samples=len(case.texts))
    with tempfile.TemporaryDirectory() as place:  # its helper takes data by name, and a folder is one
        lines = [json.dumps({"text": text}) for text in case.texts]
        Path(place, "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
        export_static_quantized_openvino_model(plain, quantization, folder, place, "default", "train", "text")
    (file,) = (path for path in Path(folder).rglob("*.xml") if "qint8" in path.name)
    return _openvino(case, folder, file_name=str(file.relative_to(folder)))


_ONNX = ("optimum", "onnxruntime")
_OPENVINO = ("optimum", "openvino")
_ST = "sentence-transformers"
PEERS = [
    _candidate("torch fp32", "float", lambda case: case.model),
    _candidate("torch bf16", "float", lambda case: copy.deepcopy(case.model).bfloat16()),
    _candidate(f"{_ST} onnx", "float", lambda case: _onnx(case, case.folder, export=True), _ONNX),
    _candidate(f"{_ST} onnx int8", COARSE, _onnx_int8, _ONNX),
    _candidate(f"{_ST} openvino", "float", lambda case: _openvino(case, case.folder, export=True), _OPENVINO),
    _candidate(f"{_ST} openvino int8", COARSE, _openvino_int8, (*_OPENVINO, "nncf", "datasets")),
]


def as_case(case: Mapping[str, Any]) -> Case:
    """A case of the result, for `summary_lines`."""
    return Case(case["case"], case["rows"])


def _table(case: Mapping[str, Any], count: int) -> str:
    lines = [
        f"{case['case']}, {case['threads']} threads",
        f"  {'':38}{'ms a text':>10}{'p20':>10}{'p80':>10}{'texts/s':>10}{'error':>9}  speed-up over the best peer",
    ]
    for row in sorted(case["rows"], key=median):
        low, middle, high = (1e3 * seconds / count for seconds in quantiles(row))
        compared = against_peers(row, case["rows"])
        gain = f"  {compared.speedup}" if compared else ""
        timed = f"{middle:>10.3f}{low:>10.3f}{high:>10.3f}{count / median(row):>10.1f}"
        lines.append(f"  {row['name']:38}{timed}{row['error']:>9.4f}{gain}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
