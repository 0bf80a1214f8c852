"""Augmentation: batches that differ from one epoch to the next, so that a student sees more than there is."""

from kdnative.data.augment.masking import MaskedBatches

__all__ = ["MaskedBatches"]
