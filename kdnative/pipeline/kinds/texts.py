"""Texts: encoders of transformers, with their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdnative.data import Batches, Dataset, DataSplits, MaskedBatches
from kdnative.data.batches import EncodedDataset
from kdnative.extras import require
from kdnative.pipeline.kinds.base import Context, Kind, Recipe, Rehearsal, Shared, Source
from kdnative.pipeline.limits import check_mask_token, check_sizes
from kdnative.pipeline.models import load_for_task, load_tokenizer, may_be_asked
from kdnative.pipeline.unread import unread_texts
from kdnative.tasks import text_task

__all__ = ["TEXTS"]


class _Texts(Kind):
    things, unit = "texts", "tokens"
    models = "folder: give the folder of a model in Hugging Face layout, package:NAME or hub:NAME"

    def load_data(self, recipe: Recipe) -> DataSplits:

        return text_task(recipe.task).load(**recipe.data.model_dump(exclude={"max_length", "images"}))

    def encode(self, shared: Shared, source: str, part: Dataset) -> EncodedDataset:
        return shared.task.encode(part, self.tokenizer(shared, source), shared.recipe.data.max_length)

    def tokenizer(self, shared: Shared, source: str) -> Any:
        """The tokenizer of the model from a source; loaded once per run."""
        key = f"tokenizer of {source}"
        if key not in shared.cache:
            shared.cache[key] = load_tokenizer(source)
        return shared.cache[key]

    def notes(self, recipe: Recipe) -> list[str]:

        return unread_texts(recipe.data, text_task(recipe.task))

    def shown(self, part: Dataset, index: int) -> dict[str, Any]:
        return {"texts": list(part[index].texts)}

    def load(self, context: Context, settings: Source, *, fine_tuned: bool = False) -> nn.Module:
        return load_for_task(settings.source, context.task, context.data.train, fine_tuned=fine_tuned)

    def rehearsed(self, rehearsal: Rehearsal, key: str, settings: Source, stages: set[str]) -> nn.Module | None:
        from kdnative.data import model_path

        source, recipe = settings.source, rehearsal.recipe
        if not may_be_asked(source, bool(rehearsal.now & stages)):
            return None
        transformers = require("transformers")
        head = text_task(recipe.task).head(rehearsal.labels)
        with rehearsal.blaming(key, stages):
            folder = Path(model_path(source))
            if "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8")):
                return None  # transformers would ask the user whether to run that code
            config = transformers.AutoConfig.from_pretrained(folder, **head)
            if recipe.teacher.fine_tuned and key == "teacher.source" and "train_teacher" in rehearsal.pending:
                rehearsal.check_fine_tuned(source, transformers.AutoConfig.from_pretrained(folder).id2label or {})
            if type(config) not in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
                raise ValueError(
                    f"{source} is a {config.model_type!r} model, and transformers has no sequence classifier "
                    "for it: give an encoder for texts, such as a BERT, RoBERTa, MPNet or DistilBERT"
                )
        with torch.device("meta"):
            return transformers.AutoModelForSequenceClassification.from_config(config).eval()

    def save(self, context: Context, model: nn.Module, source: str, path: Path) -> None:
        import kdnative

        kdnative.save(model, path, tokenizer=self.tokenizer(context.shared, source))

    def load_saved(self, path: Path) -> nn.Module:
        import kdnative

        return kdnative.load(path).eval()

    def check_sizes(self, recipe: Recipe, who: str, source: str, model: nn.Module, pending: Collection[str]) -> None:
        check_sizes(recipe, who, source, model, pending)

    def batches(self, context: Context, source: str, data: EncodedDataset) -> Any:
        """In a new order for every epoch, with some tokens hidden if the stage asks for that."""
        settings, seed = context.settings, context.recipe.seed
        batches = Batches(data, settings.batch_size, shuffle=True, seed=seed)
        if not settings.mask_tokens:
            return batches
        words = self.tokenizer(context.shared, source)
        mask = check_mask_token(context.section, source, words)
        return MaskedBatches(batches, settings.mask_tokens, mask, words.all_special_ids, seed)

    def changes_inputs(self, context: Context) -> bool:
        return bool(context.settings.mask_tokens)

    def check_training(self, context: Context, source: str) -> None:
        recipe = context.recipe
        for stage in recipe.active_stages():
            own = recipe.teacher.source if stage.teacher else recipe.student_source
            for name, section in recipe.sections_of(stage):
                if getattr(section, "mask_tokens", 0) and own == source:
                    check_mask_token(name, source, self.tokenizer(context.shared, source))

    def sizes(self, recipe: Recipe) -> tuple[int, list[int]]:
        return recipe.benchmark.tokens, recipe.benchmark.grid_tokens


TEXTS = _Texts()
