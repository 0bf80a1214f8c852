"""Data sets, packaged models, tokenisation. See `load_dataset`, `model_path`, `tokenize` and `Batches`."""

from .batches import Batch, Batches, TokenizedDataset, collate, tokenize
from .datasets import load_dataset, movie_reviews
from .masking import MaskedBatches
from .packages import FetchError, cache_dir, model_path
from .types import DataError, Dataset, DataSplits, Example

__all__ = [
    "Batch",
    "Batches",
    "DataError",
    "DataSplits",
    "Dataset",
    "Example",
    "FetchError",
    "MaskedBatches",
    "TokenizedDataset",
    "cache_dir",
    "collate",
    "load_dataset",
    "model_path",
    "movie_reviews",
    "tokenize",
]
