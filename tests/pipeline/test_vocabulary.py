"""Token ids of one model as another numbers them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdnative.pipeline import PipelineError
from kdnative.pipeline.vocabulary import TranslatingTeacher, id_table


class Tokenizer:
    model_input_names = ("input_ids", "attention_mask")

    def __init__(self, vocabulary, unk=None, **marks):
        self.vocabulary = {piece: number for number, piece in enumerate(vocabulary)}
        self.unk_token_id = None if unk is None else self.vocabulary[unk]
        for name, piece in marks.items():
            setattr(self, f"{name}_token_id", self.vocabulary[piece])

    def get_vocab(self):
        return self.vocabulary


WORDS = [f"w{i}" for i in range(200)]


def test_words_and_marks_are_renumbered():
    ours = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS], "[UNK]", cls="[CLS]", sep="[SEP]", pad="[PAD]")
    theirs = Tokenizer(["<s>", "</s>", "<pad>", *reversed(WORDS), "<u>"], "<u>", bos="<s>", eos="</s>", pad="<pad>")
    table = id_table(ours, theirs)
    assert table[:4].tolist() == [2, 203, 0, 1]
    assert table[4:].tolist() == list(range(202, 2, -1))


def test_a_few_missing_pieces_become_unknown():
    ours = Tokenizer(["u", *WORDS], "u")
    theirs = Tokenizer(["u", *WORDS[:-1]], "u")
    assert id_table(ours, theirs)[-1] == 0


def test_unlike_vocabularies_are_refused():
    with pytest.raises(PipelineError, match="lacks 200 of the student's 200 pieces .*set both to 0"):
        id_table(Tokenizer(["u", *WORDS], "u"), Tokenizer(["u", *(w.upper() for w in WORDS)], "u"))


def test_a_teacher_without_unknown_token_is_refused():
    with pytest.raises(PipelineError, match="no unknown token"):
        id_table(Tokenizer(WORDS), Tokenizer(WORDS))


def test_a_teacher_that_misses_the_token_types_of_pairs_is_refused():
    without, reads = Tokenizer(["u", *WORDS], "u"), Tokenizer(["u", *WORDS], "u")
    reads.model_input_names = ("input_ids", "token_type_ids", "attention_mask")
    with pytest.raises(PipelineError, match="only the teacher reads token types: set both to 0"):
        id_table(without, reads, pair=True)
    for ours, theirs, pair in ((without, reads, False), (reads, without, True), (reads, reads, True)):
        assert id_table(ours, theirs, pair).tolist() == list(range(201))


def test_the_teacher_reads_translated_ids():
    class Echo(nn.Module):
        config = None

        def forward(self, input_ids, attention_mask, output_hidden_states=False):
            return input_ids, attention_mask, output_hidden_states

    teacher = TranslatingTeacher(Echo(), torch.tensor([5, 6, 7]))
    mask = torch.ones(1, 3)
    ids, seen, hidden = teacher(input_ids=torch.tensor([[2, 0, 1]]), attention_mask=mask, output_hidden_states=True)
    assert ids.tolist() == [[7, 5, 6]] and seen is mask and hidden
