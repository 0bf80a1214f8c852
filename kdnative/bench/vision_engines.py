"""Every engine of the vision suite, and what it takes to run one under a Python that has its packages."""

from __future__ import annotations

from kdnative.bench import vision_mobile, vision_runtimes, vision_torch
from kdnative.bench.vision_engine import Engine

ENGINES = [*vision_torch.ENGINES, *vision_runtimes.ENGINES, *vision_mobile.ENGINES]


def engine_named(name: str) -> Engine:
    """The engine of that name.

    Raises:
        ValueError: there is none.
    """
    for engine in ENGINES:
        if engine.name == name:
            return engine
    raise ValueError(f"no engine {name!r}; there are {', '.join(engine.name for engine in ENGINES)}")
