"""Where a run's messages go: the terminal, above any progress bar, and the run's log file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdnative.pipeline.stopping import in_words

FILE_ONLY = {"file_only": True}  # for what the terminal shows in another way


class _AboveBars(logging.Handler):
    """Prints without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def run_log(path: Path, bars: bool, quiet: bool = False) -> Iterator[logging.Logger]:
    """A logger that appends to ``path`` and prints to stderr; its handlers are gone afterwards.

    Records with ``extra=FILE_ONLY`` are not printed.

    Args:
        bars: whether there are progress bars on the terminal. quiet: print warnings only; the file has everything.
    """
    log = logging.getLogger("kdnative.run")
    level, propagate = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    to_file = logging.FileHandler(path, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    to_screen = _AboveBars() if bars else logging.StreamHandler()
    to_screen.setFormatter(logging.Formatter("%(message)s"))
    to_screen.addFilter(lambda record: not getattr(record, "file_only", False))
    to_screen.setLevel(logging.WARNING if quiet else logging.INFO)
    handlers = [to_file, to_screen]
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield log
    except BaseException as error:
        # The terminal shows the error once, from the caller; the file must hold it too.
        to_file.emit(log.makeRecord(log.name, logging.ERROR, __file__, 0, in_words(error), (), None))
        raise
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
        log.setLevel(level)
        log.propagate = propagate
