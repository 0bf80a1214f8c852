"""Shapes of the linear layers of the encoders that people serve: (out_features, in_features)."""

MINILM = ((384, 384), (1152, 384), (1536, 384), (384, 1536))
BERT_BASE = ((768, 768), (2304, 768), (3072, 768), (768, 3072))
TINYBERT = ((312, 312), (1200, 312), (312, 1200))  # sizes that no tile divides
LARGE = ((4096, 4096),)

SETS = {"minilm": MINILM, "bert-base": BERT_BASE, "tinybert": TINYBERT, "large": LARGE}


def as_option(name: str) -> str:
    """The set of that name in the form of ``--shapes``."""
    return ",".join(f"{n}x{k}" for n, k in SETS[name])
