"""The ``kdnative`` command: one function per subcommand, heavy imports only where one needs them.

Exit codes: 0 done, 1 failed (in words; ``--debug`` shows the traceback), 2 wrong usage. SIGTERM and SIGHUP end a run
with 143 and 129, after a line that says so. stderr has no warnings of other packages, except with ``--debug``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdnative import __version__
from kdnative.shown import listed, printable

# Failures that a user can act on; anything else is a defect and deserves its traceback.
# FloatingPointError, not all of ArithmeticError: a loss that became NaN is worded, a division by zero is a defect.
_IN_WORDS = (ValueError, RuntimeError, OSError, ImportError, TypeError, LookupError, MemoryError, FloatingPointError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        argv: arguments without the program's name; None takes those of the process.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as end:  # argparse leaves by exception: 0 after --help and --version, 2 on wrong usage
        return int(end.code or 0)
    if arguments.debug:
        return arguments.command(arguments)
    try:
        with _own_warnings_only():
            return arguments.command(arguments)
    except KeyboardInterrupt:
        print("kdnative: stopped; continue a run with --resume", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output left, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _IN_WORDS as error:
        text = str(error) or type(error).__name__
        print(f"kdnative: {printable(text)}", file=sys.stderr)
        return 1


# Loggers of other packages that warn when they are imported or load a file of ours; their errors are still shown.
_OTHER_LOGGERS = ("torchao", "torch.utils._pytree", "transformers", "sentence_transformers")
# Their deprecations come as Python warnings: of these modules, and of whoever registers with this one of torch.
_OTHER_MODULES = r"(torchao|transformers|sentence_transformers|torch\.utils\._pytree)(\.|$)"
_OTHER_TEXTS = r".*torch\.utils\._pytree"


@contextmanager
def _own_warnings_only() -> Iterator[None]:
    """Keeps the warnings above off the terminal during a command, and prints those of kdnative without a source line.

    Every other warning is shown as usual. Afterwards everything is as it was.
    """
    levels = {name: logging.getLogger(name).level for name in _OTHER_LOGGERS}
    verbosity = os.environ.get("TRANSFORMERS_VERBOSITY")
    with warnings.catch_warnings():
        show = warnings.showwarning
        ours = str(Path(__file__).parent) + os.sep

        def shown(message, category, filename, *more):
            if filename.startswith(ours):
                print(f"kdnative: warning: {printable(str(message))}", file=sys.stderr)
            else:
                show(message, category, filename, *more)

        warnings.showwarning = shown
        for category in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category, module=_OTHER_MODULES)
            warnings.filterwarnings("ignore", _OTHER_TEXTS, category=category)
        for name in _OTHER_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        if verbosity is None:  # transformers sets the level of its logger from it when it is imported
            os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if verbosity is None:
                os.environ.pop("TRANSFORMERS_VERBOSITY", None)


# As kdnative.tasks.SERVED, which would bring torch: a test compares the tasks.
_SERVED = (
    "Recipes train models that predict one class or one number for a text or a pair of texts, or one class "
    "for a picture (task: text-classification, text-regression, sentence-pair-classification, "
    "sentence-pair-regression, image-classification). Any encoder can be converted: kdnative convert, or "
    "kdnative.convert_ in Python."
)
# The modules of kdnative.bench that are commands.
_SUITES = (
    "gemm",
    "gpu-gemm",
    "sparse",
    "encoder",
    "vision",
    "model",
    "memory",
    "logits",
    "accuracy",
    "quality",
    "gate",
    "qat",
    "overhead",
    "soak",
    "texts",
    "table",
    "readme",
)


def _parser() -> argparse.ArgumentParser:
    # allow_abbrev: a misspelt or shortened option must not silently mean another one in a later version
    parser = argparse.ArgumentParser(
        prog="kdnative",
        description="Distil, prune, quantize and run small models natively.",
        epilog=f"{_SERVED} Start with: kdnative new DATA",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"kdnative {__version__}")
    parser.set_defaults(debug=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function, text: str, more: str = "") -> argparse.ArgumentParser:
        description = f"{text[0].upper()}{text[1:]}. {more}".rstrip()
        sub = commands.add_parser(name, help=text, description=description, allow_abbrev=False)
        sub.add_argument("--debug", action="store_true", help="show tracebacks, and the warnings of other packages")
        sub.set_defaults(command=function)
        return sub

    _new_arguments(command("new", _new, "write a commented recipe for a data file, guessed from its columns", _SERVED))
    _run_arguments(command("run", _run, "run a recipe: train, distil, prune, quantize, convert, measure", _SERVED))
    _convert_arguments(command("convert", _convert, "convert a model into a checkpoint of packed native modules"))
    _predict_arguments(command("predict", _predict, "predict texts or pictures with a student, from file to file"))
    _bench_arguments(command("bench", _bench, "measure speed, memory and accuracy on this machine"))
    sub = command("doctor", _doctor, "show kernels, torch, GPU and optional packages of this machine")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = command("inspect", _inspect, "show the modules of a saved student")
    sub.add_argument("student", help="folder of a kdnative checkpoint")
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub = command("store", _store, "list or delete the outputs that runs share")
    sub.add_argument("action", nargs="?", choices=("list", "clear", "path"), default="list", help="default: list")
    sub.add_argument(
        "--store", metavar="DIR", help="folder of the store (default: $KDNATIVE_STORE, or store in the user's cache)"
    )
    sub = command("report", _report, "write report.html and report.json of a run")
    sub.add_argument("run_dir", help="folder of a run, such as runs/movies")
    return parser


def _run_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("recipe", help="YAML file, see docs/recipes.md")
    sub.add_argument("--runs", default="runs", metavar="DIR", help="folder for run folders (default: runs)")
    existing = sub.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue an earlier run of this name")
    existing.add_argument(
        "--overwrite",
        action="store_true",
        help="delete an earlier run and start again; with --only, run only that stage again",
    )
    sub.add_argument(
        "--restart-changed", action="store_true", help="with --resume: run stages again whose settings have changed"
    )
    part = sub.add_mutually_exclusive_group()
    part.add_argument("--only", metavar="STAGE", help="run one stage, using the outputs of earlier stages")
    part.add_argument("--until", metavar="STAGE", help="stop after this stage")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe, such as distil.epochs=3",
    )
    sub.add_argument(
        "--check", action="store_true", help="check recipe, data and models, and print the plan without running it"
    )
    sub.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="run once per seed, then print medians and ranges")
    sub.add_argument(
        "--quiet", action="store_true", help="print only warnings and the result; log.txt has all messages"
    )


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers such as 0,1,2 are needed, got {text!r}") from None


def _run(arguments: argparse.Namespace) -> int:
    from kdnative import pipeline

    if arguments.check and arguments.seeds is not None:
        raise ValueError("--check uses the seed of the recipe: leave out --seeds")
    if arguments.check:
        print(pipeline.check(arguments.recipe, overrides=arguments.set, runs=arguments.runs))
        return 0
    if arguments.seeds is not None and (arguments.only or arguments.until):
        raise ValueError("--seeds runs all stages: leave out --only and --until")
    options = {
        "runs": arguments.runs,
        "resume": arguments.resume,
        "overwrite": arguments.overwrite,
        "restart_changed": arguments.restart_changed,
        "overrides": arguments.set,
        "progress": sys.stderr.isatty(),
        "quiet": arguments.quiet,
    }
    if arguments.seeds is not None:
        return _run_seeds(arguments.recipe, arguments.seeds, options)
    folder = pipeline.run(arguments.recipe, only=arguments.only, until=arguments.until, **options)
    summary = folder / "summary.txt"
    last = arguments.only or arguments.until
    if last in (None, "report") and summary.is_file():
        print(summary.read_text(encoding="utf-8"))
    print(f"run folder: {folder}")
    if (folder / "student").is_dir():
        from kdnative.report.card import closing

        task = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["task"]["name"]
        print(closing(folder / "student", task))
    return 0


def _new_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", help=".csv, .tsv or .jsonl file, or a folder with train (validation, test) files")
    sub.add_argument("--out", default="recipe.yaml", metavar="FILE", help="recipe to write (default: recipe.yaml)")
    sub.add_argument("--task", help="what to predict (default: guessed from the labels)")
    sub.add_argument(
        "--teacher", default="package:minilm-l6", metavar="MODEL", help="the teacher: folder, package:NAME, hub:NAME"
    )
    sub.add_argument("--text", metavar="COLUMN", help="column of the texts (default: guessed)")
    sub.add_argument("--text-pair", metavar="COLUMN", help="column of the second texts of pairs (default: guessed)")
    sub.add_argument("--label", metavar="COLUMN", help="column of the labels (default: guessed)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing recipe")


def _new(arguments: argparse.Namespace) -> int:
    from kdnative import pipeline

    names = ("data", "out", "task", "teacher", "text", "text_pair", "label", "overwrite")
    print(pipeline.new(**{name: getattr(arguments, name) for name in names}))
    print(f"written: {arguments.out}")
    print(f"next: kdnative run {arguments.out} --check, then kdnative run {arguments.out}")
    return 0


def _run_seeds(recipe: str, seeds: list[int], options: dict) -> int:
    from kdnative.pipeline.seeds import format_seeds, run_seeds

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    path = run_seeds(recipe, seeds, say=(lambda text: None) if options["quiet"] else say, **options)
    print(format_seeds(json.loads(path.read_text(encoding="utf-8"))))
    print(f"figures: {path}")
    return 0


def _convert_arguments(sub: argparse.ArgumentParser) -> None:
    words = "Hugging Face folder, package:NAME, hub:NAME, kdnative checkpoint, or a model of a run"
    sub.add_argument("input", metavar="IN", help=words)
    sub.add_argument("output", metavar="OUT", help="folder to write")
    sub.add_argument("--scheme", default="w8a8", help="quantization scheme, such as w8a8 or w4a8-g64 (default: w8a8)")
    sub.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN", help="name pattern of modules to leave in float"
    )
    words = "texts to calibrate on: .txt (one a line), .csv, .tsv, .jsonl; or a folder of pictures"
    sub.add_argument("--calibrate", metavar="FILE", help=words)
    sub.add_argument("--column", metavar="NAME", help="column of the texts in FILE (default: text)")
    words = "number of texts or pictures to calibrate on (default: 128); up to as many other examples measure the loss"
    sub.add_argument("--texts", type=int, metavar="N", help=words)
    sub.add_argument(
        "--method",
        help="how weights are rounded. With --calibrate: smoothquant (default for w8a8), gptq (default "
        "otherwise), awq, awq+gptq or clip. Without: rtn (rounding to nearest; default, except at 2 bits) or "
        "hqq. For convolutional networks, how ranges are found: mse (default), minmax or percentile",
    )
    sub.add_argument("--float-embeddings", action="store_true", help="leave embeddings in float (default: int8)")
    sub.add_argument("--overwrite", action="store_true", help="replace an existing OUT")


def _convert(arguments: argparse.Namespace) -> int:
    from kdnative import convert_, inspect, save
    from kdnative.ops.backends import accepted
    from kdnative.pipeline import networks
    from kdnative.pipeline.calibration_pictures import batches_of_pictures, two_parts_of_pictures
    from kdnative.pipeline.calibration_texts import Loss, batches_of, check_rounding, rounding_warning, two_parts
    from kdnative.pipeline.models import load_whole
    from kdnative.quantize import calibrate_

    scheme = accepted(arguments.scheme)
    check_rounding(scheme, arguments.method, arguments.calibrate, arguments.column, arguments.texts)
    output = Path(arguments.output)
    if output.exists() and not arguments.overwrite:
        raise ValueError(f"{output} exists: give another folder, or replace it with --overwrite")
    parts: Any = None
    pictures, count = arguments.calibrate is not None and Path(arguments.calibrate).is_dir(), arguments.texts or 128
    things, read = ("pictures", batches_of_pictures) if pictures else ("texts", batches_of)
    if arguments.calibrate:
        source, column = arguments.calibrate, arguments.column or "text"
        parts = two_parts_of_pictures(source, count) if pictures else two_parts(source, column, count)
    model, tokenizer = load_whole(arguments.input)
    options: dict[str, Any] = {"keep": tuple(arguments.keep)}
    options["embeddings"] = None if arguments.float_embeddings else 8
    measure = None
    if parts is not None:
        options["calibration"] = read(parts[0], model, tokenizer)
        if pictures:  # networks of convolutions are calibrated where they are made
            options["method"] = arguments.method
        else:
            shown = {"method": arguments.method, "keep": options["keep"], "progress": sys.stderr.isatty()}
            options["calibration"] = calibrate_(model, scheme, options["calibration"], **shown)
        measure = Loss(model, read(parts[1], model, tokenizer)) if len(parts[1]) else None
    elif arguments.method is not None:
        options["method"] = arguments.method
    elif warning := rounding_warning(scheme):
        print(f"kdnative: warning: {warning}", file=sys.stderr)
        options["method"] = "rtn"
    report = convert_(model, scheme, **options)
    loss = None if measure is None else measure(report.model)
    sentences = type(report.model).__module__.startswith("sentence_transformers.")
    if sentences:
        report.model.save_pretrained(str(output))
    else:
        save(report.model, output, tokenizer=tokenizer)
    print(report)
    if parts is not None and loss is not None:
        print(f"loss on {len(parts[1])} other {things} of {arguments.calibrate}: {loss}")
    elif parts is not None:
        print(
            f"loss: not measured, because all {len(parts[0])} {things} of {arguments.calibrate} are used for "
            f"calibration; give more {things}, or a smaller --texts"
        )
    print(f"saved: {output}")
    if sentences:
        print(f"load it with: import kdnative.transformers; model = SentenceTransformer({str(output)!r})")
    elif inspect(output)["rebuild"] == "into":
        if (Path(arguments.input) / networks.DESCRIPTION).is_file():
            networks.save_description(output, networks.read_description(Path(arguments.input)))
        kind = type(report.model).__name__
        print(f"load it into a float model: kdnative.load({str(output)!r}, into=model), where model is a {kind}")
    return 0


def _predict_arguments(sub: argparse.ArgumentParser) -> None:
    words = "kdnative checkpoint, Hugging Face folder, package:NAME or hub:NAME"
    sub.add_argument("student", metavar="STUDENT", help=words)
    words = "a text, or a file or folder of pictures; none, or -: lines of standard input"
    sub.add_argument("texts", nargs="*", metavar="TEXT", help=words)
    sub.add_argument("--input", metavar="FILE", help=".txt (a text a line), .csv, .tsv, .jsonl, .parquet, or a folder")
    words = "to write, with the input's columns: .jsonl, .csv, .tsv, .parquet; .npy of embeddings (default: stdout)"
    sub.add_argument("--output", metavar="FILE", help=words)
    sub.add_argument("--column", metavar="NAME", help="of the texts (default: text), or of paths of pictures (path)")
    sub.add_argument("--pair-column", metavar="NAME", help="of the second texts of pairs")
    sub.add_argument("--text-pair", metavar="TEXT", help="the second text, to one TEXT")
    sub.add_argument("--scheme", help="convert a float model on the way, such as w8a8 (default: as it is)")
    sub.add_argument("--top", type=int, metavar="K", help="how many classes, most likely first (default: all)")
    sub.add_argument("--batch-size", type=int, default=64, metavar="N", help="the most rows at once (default: 64)")
    sub.add_argument("--threads", type=int, metavar="N", help="default: torch's")
    sub.add_argument("--max-length", type=int, metavar="N", help="tokens; longer texts are cut (default: the most)")
    sub.add_argument("--skip-bad", action="store_true", help="leave out rows that can't be read, and count them")
    parse = sub.parse_known_args

    def intermixed(args=None, namespace=None):  # texts may follow options, which argparse allows in this call alone
        sub.parse_known_args = parse
        try:
            return sub.parse_known_intermixed_args(args, namespace)
        finally:
            sub.parse_known_args = intermixed

    sub.parse_known_args = intermixed  # type: ignore[method-assign]


def _predict(arguments: argparse.Namespace) -> int:
    from kdnative import CheckpointError, predict
    from kdnative.pipeline import PipelineError

    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "debug")}
    try:
        predict.run(predict.Request(**options))
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ImportError, CheckpointError, PipelineError) as error:
        if arguments.debug:
            raise
        print(f"kdnative: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def _bench_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("suite", choices=_SUITES, help="what to measure; table prints results as Markdown")
    sub.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the suite; --help lists them")


def _bench(arguments: argparse.Namespace) -> int:
    import importlib

    suite = importlib.import_module(f"kdnative.bench.{arguments.suite.replace('-', '_')}")
    return suite.main(arguments.rest) or 0


def _doctor(arguments: argparse.Namespace) -> int:
    from kdnative import doctor

    found = doctor.collect()
    print(json.dumps(found, indent=2) if arguments.json else doctor.describe(found))
    return 1 if found["problems"] else 0


def _inspect(arguments: argparse.Namespace) -> int:
    from kdnative import inspect

    found = inspect(arguments.student)
    print(json.dumps(found, indent=2) if arguments.json else _table_of(found))
    return 0


def _table_of(found: dict) -> str:
    """The modules of a checkpoint, aligned, and the totals below."""
    head = ("module", "kind", "scheme", "shape", "bytes")
    lines = [head]
    for row in found["modules"]:
        shape = "" if row["shape"] is None else "x".join(map(str, row["shape"]))
        lines.append((row["name"] or "(model)", row["kind"], row["scheme"] or "-", shape, f"{row['bytes']:,}"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    totals = found["totals"]
    table = [printable(line) for line in table]  # names are those of the file
    table.append(f"{totals['modules']} modules, {totals['file_bytes'] / 1e6:.2f} MB file")
    if (image := found["image_input"]) is not None:
        size = " x ".join(map(str, image["size"]))
        table.append(printable(f"pictures: {size} pixels, {len(image['classes'])} classes {listed(image['classes'])}"))
    return "\n".join(table)


def _store(arguments: argparse.Namespace) -> int:
    from datetime import datetime

    from kdnative.pipeline.store import Store, store_path

    store = Store(store_path(arguments.store))
    if arguments.action == "path":
        print(store.path)
        return 0
    if arguments.action == "clear":
        removed, kept = store.clear()
        print(f"{_outputs(removed)} deleted, {_megabytes(removed)}")
        if kept:
            print(f"{_outputs(kept)} {'is' if len(kept) == 1 else 'are'} in use by a run and "
                  f"{'was' if len(kept) == 1 else 'were'} kept: clear again when it has ended")  # fmt: skip
        return 1 if kept else 0
    entries = store.entries()
    for entry in entries:
        made = datetime.fromtimestamp(entry.made).strftime("%Y-%m-%d %H:%M")
        print(f"{entry.stage:<20} {entry.key[:12]}  {made}  {_megabytes([entry]):>12}")
    print(f"{store.path}: {_outputs(entries)}, {_megabytes(entries)}" if entries else f"{store.path}: nothing")
    return 0


def _outputs(entries: list) -> str:
    return f"{len(entries)} output{'' if len(entries) == 1 else 's'}"


def _megabytes(entries: list) -> str:
    return f"{sum(entry.bytes for entry in entries) / 1e6:,.1f} MB"


def _report(arguments: argparse.Namespace) -> int:
    from kdnative import report

    print(report.build(Path(arguments.run_dir)))
    return 0
