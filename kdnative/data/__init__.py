"""Data sets, packaged models, tokenized texts. Start with `load_dataset` or `from_texts`, `tokenize` and `Batches`."""

from kdnative.data.augment import MaskedBatches
from kdnative.data.batches import Batch, Batches, EncodedDataset, TokenizedDataset, collate, tokenize
from kdnative.data.datasets import load_dataset
from kdnative.data.movies import movie_reviews
from kdnative.data.packages import FetchError, cache_dir, model_path
from kdnative.data.texts import from_texts
from kdnative.data.types import DataError, Dataset, DataSplits, Example

__all__ = [
    "Batch",
    "Batches",
    "DataError",
    "DataSplits",
    "Dataset",
    "EncodedDataset",
    "Example",
    "FetchError",
    "MaskedBatches",
    "TokenizedDataset",
    "cache_dir",
    "collate",
    "from_texts",
    "load_dataset",
    "model_path",
    "movie_reviews",
    "tokenize",
]
