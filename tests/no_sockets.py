"""A process without sockets: from some point on nothing in it opens one, and who tried to is known."""

from __future__ import annotations

import sys

__all__ = ["refuse_sockets"]


def refuse_sockets() -> list[str]:
    """Refuse every use of a socket by Python from now on, for good, as on a machine without a network.

    Returns:
        What was tried, a line each, also where the error was caught. The caller may empty it.
    """
    tried: list[str] = []

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith("socket."):
            tried.append(f"{event} {arguments}"[:300])
            raise OSError(f"sockets are refused here: {event}")

    sys.addaudithook(hook)
    return tried
