"""What the command line asked for, and whether it goes together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["INPUTS", "OUTPUTS", "Request"]

INPUTS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
OUTPUTS = (".jsonl", ".csv", ".tsv", ".parquet", ".npy")


@dataclass(frozen=True)
class Request:
    """The options of ``kdnative predict``, whose help explains them.

    Raises:
        ValueError: options that don't go together, a file that isn't there or of an unknown kind.
    """

    student: str
    texts: Sequence[str] = ()
    input: str | None = None
    output: str | None = None
    column: str | None = None
    pair_column: str | None = None
    text_pair: str | None = None
    scheme: str | None = None
    top: int | None = None
    batch_size: int = 64
    threads: int | None = None
    max_length: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        for name in ("top", "batch_size", "threads", "max_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give 1 or more")
        if self.texts and self.input is not None:
            raise ValueError("give texts as arguments or a file with --input, not both")
        if self.pair_column is not None and self.input is None:
            raise ValueError("--pair-column names a column of a file: give one with --input")
        if self.text_pair is not None and (len(self.texts) != 1 or self.from_stdin):
            raise ValueError("--text-pair goes with one TEXT; many pairs are two columns of a file, see --pair-column")
        self._check_files()

    def _check_files(self) -> None:
        source = None if self.input is None else Path(self.input)
        if source is not None and not source.is_dir():
            if not source.is_file():
                raise ValueError(f"--input {source}: no such file")
            if source.suffix.lower() not in INPUTS:
                raise ValueError(f"--input {source}: what can be read ends in {', '.join(INPUTS)}")
        if self.output is not None:
            if Path(self.output).suffix not in OUTPUTS:
                raise ValueError(f"--output {self.output}: what can be written ends in {', '.join(OUTPUTS)}")
            if Path(self.output).is_dir():
                raise ValueError(f"--output {self.output}: there is a folder of that name; give a file")
            if source is not None and Path(self.output).exists() and os.path.samefile(self.output, source):
                raise ValueError(f"--output {self.output}: this is the input; give another file")

    @property
    def from_stdin(self) -> bool:
        """Whether the rows are lines of standard input."""
        return self.input is None and list(self.texts) in ([], ["-"])

    @property
    def source(self) -> str:
        """Where the rows come from, in words."""
        return self.input or ("standard input" if self.from_stdin else "the arguments")
