"""What pages of the documentation speak of, in miniature: models under their names, data files, a working folder."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.conftest import BAD, GOOD, OTHER, sentences

SENTENCE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def build(folder: Path) -> Path:
    """Models and data files, to be linked into the working folder of each page."""
    _model(folder / "cache" / "models" / "all-MiniLM-L6-v2")
    _sentence_transformer(folder / SENTENCE_MODEL)
    rows = sentences(100, 1)
    _photo(folder / "photo.png")
    (folder / "reviews.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return folder


def link(built: Path, folder: Path) -> None:
    """A working folder in which relative names of models and files lead to what was built."""
    for entry in built.iterdir():
        (folder / entry.name).symlink_to(entry)


def _model(folder: Path) -> Path:
    """A random BERT of the sizes of MiniLM-L6, so that heads and neurons in recipes fit, that knows a few words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    digits = [str(d) for d in range(10)] + [f"##{d}" for d in range(10)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *OTHER, *digits]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(3)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=512, **sizes)).save_pretrained(folder)
    return folder


def _photo(file: Path) -> None:
    from PIL import Image

    Image.linear_gradient("L").convert("RGB").save(file)


def _sentence_transformer(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    except ImportError:  # sentence-transformers 5
        from sentence_transformers.models import Normalize, Pooling, Transformer

    encoder = Transformer(str(_model(folder.with_name("encoder"))), max_seq_length=128)
    model = SentenceTransformer(modules=[encoder, Pooling(384, "mean"), Normalize()], device="cpu")
    model.save(str(folder))


def given(name: str):
    """An object that a page speaks of without making it: a classifier of BERT, its tokenizer, inputs of it.

    "student" is a folder: a checkpoint of such a classifier.
    """
    import torch

    from tests.small_models import bert

    if name == "model":
        return bert(num_labels=2, hidden_size=128, intermediate_size=256, num_attention_heads=4, num_hidden_layers=6)
    if name == "student":
        import kdnative as kd

        model = given("model")
        kd.convert_(model, "w8a8")
        kd.save(model, name, tokenizer=given("tokenizer"))
        return name
    if name == "inputs":
        return {"input_ids": torch.tensor([[2, 5, 6, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    if name == "pictures":
        return torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    if name == "texts":
        return [text for text, _ in sentences(256, 3)]
    if name in ("data", "batches"):
        import kdnative as kd

        texts, labels = zip(*sentences(32, 2), strict=True)
        data = kd.data.tokenize(kd.data.from_texts(texts, labels), given("tokenizer"))
        return data if name == "data" else kd.data.Batches(data, 8, shuffle=True)
    if name == "tokenizer":
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(SENTENCE_MODEL)
    raise KeyError(f"<!-- given: {name} -->: tests/docs/workshop.py makes nothing of that name")
