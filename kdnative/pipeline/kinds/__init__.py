"""What of a run depends on whether its models read texts or pictures, in one object for each of the two."""

from __future__ import annotations

from kdnative.pipeline.kinds.base import Kind

__all__ = ["Kind", "kind_of"]


def kind_of(pictures: bool) -> Kind:
    """The kind of a task (`kdnative.tasks.Task.pictures`)."""
    if pictures:
        from kdnative.pipeline.kinds.pictures import PICTURES

        return PICTURES
    from kdnative.pipeline.kinds.texts import TEXTS

    return TEXTS
