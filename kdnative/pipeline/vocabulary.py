"""A teacher that reads the student's token ids: for hidden states where two vocabularies are numbered differently."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.pipeline.folder import PipelineError

# Marks that play the same part under different names, such as [CLS] and <s>.
_ROLES = (("cls_token", "bos_token"), ("sep_token", "eos_token"), ("pad_token",), ("unk_token",), ("mask_token",))
MISSING_ALLOWED = 0.01


def id_table(student: Any, teacher: Any, pair: bool = False) -> Tensor:
    """For every token id of the student's tokenizer, the teacher's id of the same piece of text.

    Both must cut texts into the same pieces, as all models with BERT's uncased word pieces do; only the numbering and
    the names of the marks may differ. Pieces that the teacher lacks become its unknown token.

    Args:
        pair: whether the texts are pairs, of which some models also read the token types.

    Returns:
        int64 [largest student id + 1].

    Raises:
        PipelineError: more than 1 % of the pieces are unknown to the teacher, or it reads token types of pairs and the
            student does not.
    """
    if pair and _reads_types(teacher) and not _reads_types(student):
        raise PipelineError(
            "hidden_weight and mask_tokens need a teacher and a student that read pairs alike, but only the "
            "teacher reads token types: set both to 0"
        )
    ours: Mapping[str, int] = student.get_vocab()
    theirs: Mapping[str, int] = teacher.get_vocab()
    unknown = teacher.unk_token_id
    if unknown is None:
        raise PipelineError(
            "the teacher's tokenizer has no unknown token, so the student's token ids can't be translated"
        )
    table = torch.full((max(ours.values()) + 1,), unknown, dtype=torch.int64)
    marks = set()
    for names in _ROLES:
        of_student, of_teacher = (_first_id(tokenizer, names) for tokenizer in (student, teacher))
        if of_student is not None and of_teacher is not None:
            table[of_student] = of_teacher
            marks.add(of_student)
    pieces = [(piece, number) for piece, number in ours.items() if number not in marks]
    missing = [piece for piece, _ in pieces if piece not in theirs]
    if len(missing) > MISSING_ALLOWED * len(pieces):
        raise PipelineError(
            "hidden_weight and mask_tokens need a teacher and a student with matching tokenizers, but the "
            f"teacher's vocabulary lacks {len(missing)} of the student's {len(pieces)} pieces (such as "
            f"{missing[0]!r}): set both to 0"
        )
    for piece, number in pieces:
        if piece in theirs:
            table[number] = theirs[piece]
    return table


def _reads_types(tokenizer: Any) -> bool:
    return "token_type_ids" in tokenizer.model_input_names


def _first_id(tokenizer: Any, marks: tuple[str, ...]) -> int | None:
    ids = (getattr(tokenizer, f"{mark}_id", None) for mark in marks)
    return next((number for number in ids if number is not None), None)


class TranslatingTeacher(nn.Module):
    """A Hugging Face model behind a table from the student's token ids to its own.

    Token types of the student's pairs are passed on where the model reads any.
    """

    def __init__(self, model: nn.Module, table: Tensor) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.reads_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self.register_buffer("table", table, persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        if not self.reads_types:
            options.pop("token_type_ids", None)
        return self.model(input_ids=self.table[input_ids], attention_mask=attention_mask, **options)
