"""Students of several kinds as folders, with what each answers."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import kdnative as kd
from tests.small_models import bert

WORDS = "[PAD] [UNK] [CLS] [SEP] a the lovely film bore cat dog plays was scene plot dull".split()
TEXTS = ["a lovely film", "the plot was dull", "cat", "the dog plays a lovely scene the cat was dull"]
IMAGE = 48


def tokenizer():
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special)


def picture(seed=0):
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def text_logits(model):
    inputs = tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state * inputs["attention_mask"][..., None]


def _labels():
    names = ["bad", "fair", "good"]
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


def full():
    model = bert(**_labels())
    kd.convert_(model, "w8a8")
    return model


def pruned():
    """Tapered: each layer has its own heads and neurons."""
    model = bert(seed=1, **_labels())
    example = {"input_ids": torch.randint(4, 16, (2, 8))}
    kd.prune.structured_(model, heads=[4, 2], ffn=[128, 64], example_inputs=example, multiple_of=16)
    kd.convert_(model, "w8a8")
    return model


def pruned_float():
    model = bert(seed=2, **_labels())
    example = {"input_ids": torch.randint(4, 16, (2, 8))}
    kd.prune.structured_(model, heads=0.5, ffn=0.5, example_inputs=example, multiple_of=16)
    return model


def four_bits():
    model = bert(seed=3, **_labels())
    kd.convert_(model, "w4a8-g64", method="rtn")
    return model


def encoder():
    model = bert(seed=4, kind="BertModel")
    kd.convert_(model, "w8a8")
    return model


def vit():
    import transformers

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    torch.manual_seed(5)
    config = transformers.ViTConfig(**sizes, image_size=IMAGE, patch_size=8, **_labels())
    model = transformers.ViTForImageClassification(config).eval()
    kd.convert_(model, "w8a8")
    return model


def vit_processor():
    import transformers

    return transformers.ViTImageProcessor(size={"height": IMAGE, "width": IMAGE})


def mobilenet():
    import torchvision

    torch.manual_seed(6)
    model = torchvision.models.mobilenet_v2(num_classes=3).eval()
    with torch.no_grad():  # a new network answers every picture with the same
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight *= 3
    model.preprocess = kd.nn.ImageInput(IMAGE, classes=("bad", "fair", "good"))
    kd.convert_(model, "w8a8", calibration=[model.preprocess([picture(i) for i in range(4)])])
    return model


TEXT_STUDENTS = {f.__name__: f for f in (full, pruned, pruned_float, four_bits, encoder)}
IMAGE_STUDENTS = {f.__name__: f for f in (vit, mobilenet)}


def save_all(folder: Path) -> None:
    """Every student in a folder of its name, and ``expected.pt``: logits, or hidden states of the bare encoder."""
    expected = {}
    for name, make in TEXT_STUDENTS.items():
        model = make()
        expected[name] = text_logits(model)
        kd.save(model, folder / name, tokenizer=tokenizer())
    for name, make in IMAGE_STUDENTS.items():
        model = make()
        processor = vit_processor() if name == "vit" else None
        with torch.inference_mode():
            if name == "vit":
                expected[name] = model(processor(picture(9), return_tensors="pt")["pixel_values"]).logits
            else:
                expected[name] = model(model.preprocess(picture(9)))
        kd.save(model, folder / name, tokenizer=processor)
    torch.save(expected, folder / "expected.pt")
