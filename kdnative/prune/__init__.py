"""Pruning: masks that keep shapes, and structured removal that shrinks them."""

from kdnative.prune.channels import ChannelReport, ChannelRow, prune_channels_
from kdnative.prune.mask import finalize_masks_, mask_, masked_modules, sparsity_report
from kdnative.prune.report import PruneReport, PruneRow
from kdnative.prune.schedule import MaskSchedule
from kdnative.prune.sizes import evenly_spaced
from kdnative.prune.sparsegpt import sparsify
from kdnative.prune.structured import shrink_shapes_, structured_, student_from

__all__ = [
    "ChannelReport",
    "ChannelRow",
    "MaskSchedule",
    "PruneReport",
    "PruneRow",
    "evenly_spaced",
    "finalize_masks_",
    "mask_",
    "masked_modules",
    "shrink_shapes_",
    "prune_channels_",
    "sparsify",
    "sparsity_report",
    "structured_",
    "student_from",
]
