"""Pictures: folders, IDX files and data sets in memory; augmentation; what users' pictures suffer from."""

from kdnative.data.images.augment import Augmentation, AugmentedBatches, MixedBatch
from kdnative.data.images.corruptions import CORRUPTIONS, CorruptedDataset
from kdnative.data.images.encoded import IMAGENET_MEAN, IMAGENET_STD, ImageDataset, Preprocessing
from kdnative.data.images.in_memory import from_pictures
from kdnative.data.images.loading import load_images
from kdnative.data.images.pictures import Picture, Pictures

__all__ = [
    "CORRUPTIONS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augmentation",
    "AugmentedBatches",
    "CorruptedDataset",
    "ImageDataset",
    "MixedBatch",
    "Picture",
    "Pictures",
    "Preprocessing",
    "from_pictures",
    "load_images",
]
