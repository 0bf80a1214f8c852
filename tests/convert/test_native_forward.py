"""A training whose forward is the native model."""

import copy
import pickle
import sys

import pytest
import torch
from torch import nn

from kdnative import convert_
from kdnative.convert import build, native_forward
from kdnative.data import Batches
from kdnative.distill import DistillationLoss, HardLabelLoss, HiddenStateLoss, TrainConfig, train
from kdnative.nn import Encoder, TransformerEncoder
from kdnative.prune import mask_
from kdnative.quantize import prepare_qat_
from tests.distill.tiny import Tiny, tokens
from tests.small_models import bert


def batches(rows=40, seed=0):
    return Batches(tokens(rows, seed), 8, shuffle=True, seed=0)


def inputs(rows=24, length=20):
    mask = torch.arange(length) < torch.randint(1, length + 1, (rows, 1))
    return {"input_ids": torch.randint(1, 200, (rows, length)) * mask, "attention_mask": mask.long()}


def student(scheme="w2a8-g32", **options):
    model = bert(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3, num_labels=2)
    prepare_qat_(model, scheme, **options)
    return model.train()


def converted(model, **options):
    report = convert_(copy.deepcopy(model), **options)
    return report.model


@pytest.mark.parametrize(
    ("scheme", "options"), [("w8a8", {}), ("w2a8-g32", {"ternary": "channel"}), ("w4a8-g32-int", {})]
)
def test_training_sees_the_bits_of_the_converted_model(scheme, options):
    check_bits(scheme, options)


def test_with_every_instruction_set(isa):
    check_bits("w2a8-g32", {"clip": "learn"})


def check_bits(scheme, options):
    model, batch = student(scheme, **options), inputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    seen = []
    with native_forward(model):
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(**batch).logits
            native = converted(model)
            with torch.no_grad():
                assert torch.equal(logits, native(**batch).logits)
            seen.append(logits.detach())
            logits.square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert type(native.bert) is Encoder and model.training
    assert not torch.equal(seen[0], seen[2])
    assert "forward" not in vars(model)


def test_gradients_are_those_of_the_layers_in_training():
    model, batch = student(), inputs()
    upstream = torch.randn(24, 2)
    model.eval()(**batch).logits.backward(upstream)
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with native_forward(model.train()):
        model(**batch).logits.backward(upstream)
    assert all(torch.equal(p.grad, wanted[name]) for name, p in model.named_parameters())
    assert all(grad.any() for grad in wanted.values())


def test_it_is_packed_once_a_step(monkeypatch):
    module, packed = sys.modules[native_forward.__module__], []
    monkeypatch.setattr(module, "build", lambda *a, **k: packed.append(1) or build(*a, **k))
    model, batch = student(), inputs(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with native_forward(model):
        for count in (1, 2, 3):
            for _ in range(3):  # accumulated batches
                model(**batch).logits.sum().backward()
            with torch.no_grad():
                before = model(**batch).logits
            assert len(packed) == count
            optimizer.step()
            with torch.no_grad():
                assert not torch.equal(model(**batch).logits, before)
            assert len(packed) == count + 1
            model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
            packed.pop()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loop_trains_resumes_and_ends_with_the_bits_of_the_converted_model(tmp_path, accumulation):
    def fit(model, path, callbacks=(), validation=None):
        config = TrainConfig(epochs=2, lr=3e-3, precision="fp32", accumulation=accumulation)
        saving = {"state_path": path, "save_every": 1, "resume": True}
        train(model, batches(), HardLabelLoss(), config, callbacks=callbacks, validation=validation, **saving)

    measured = []

    def validation(model):
        measured.append(model(**batch).logits.clone())
        return {"sum": float(measured[-1].sum())}

    batch, results = inputs(), []
    for interrupted in (False, True):
        model, path = student(clip="learn"), tmp_path / f"{interrupted}.pt"
        with native_forward(model):
            if interrupted:
                with pytest.raises(KeyboardInterrupt):
                    fit(model, path, [Interrupt(3)])
            fit(model, path, validation=validation)
        results.append(model.state_dict())
        with torch.no_grad():
            assert torch.equal(converted(model)(**batch).logits, measured[-1])
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


class Interrupt:
    def __init__(self, step):
        self.step = step

    def on_step(self, progress):
        if progress.step == self.step:
            raise KeyboardInterrupt


def test_hidden_states_and_teachers():
    model, teacher = student(), bert(1, num_labels=2)
    loss = DistillationLoss(hidden=HiddenStateLoss({1: 1}, student_width=64, teacher_width=64))
    with native_forward(model):
        states = model(**inputs(4), output_hidden_states=True).hidden_states
        with torch.no_grad():
            wanted = converted(model)(**inputs(4), output_hidden_states=True).hidden_states
        assert len(states) == len(wanted) == 3 and all(state.requires_grad for state in states[1:])
        before = model.bert.encoder.layer[0].output.dense.weight.clone()
        train(model, batches(), loss, TrainConfig(epochs=1, lr=1e-3, precision="fp32"), teachers=[teacher])
    assert not torch.equal(model.bert.encoder.layer[0].output.dense.weight, before)


def test_other_models_and_outputs():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    for model, batch, kind in (
        (nn.Sequential(encoder, nn.Linear(64, 20)), (torch.randn(3, 7, 64),), TransformerEncoder),
        (nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 32)), (torch.randn(5, 64),), None),
    ):
        prepare_qat_(model.train(), "w8a8")
        with native_forward(model):
            y = model(*batch)
        native = converted(model)
        with torch.no_grad():
            assert torch.equal(y, native(*batch))
        y.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        assert kind is None or type(native[0]) is kind
    tiny = Tiny(width=64, dropout=0.5).train()  # its output is a namespace
    batch = next(iter(batches().epoch(0))).inputs
    with native_forward(tiny):
        y = tiny(**batch).logits
    with torch.no_grad():
        assert torch.equal(y, converted(tiny)(**batch).logits)
    y.sum().backward()
    assert tiny.hidden.weight.grad.any()


def test_nothing_is_left_of_it_and_hooks_run_once():
    model, batch, calls = student(), inputs(2), []
    model.register_forward_hook(lambda *a: calls.append(1))
    with pytest.raises(ZeroDivisionError), native_forward(model):
        model(**batch)
        with pytest.raises(ValueError, match="the model's forward was replaced"), native_forward(model):
            pass
        raise ZeroDivisionError
    assert calls == [1] and "forward" not in vars(model) and model.training


def test_refusals_come_before_anything_runs():
    model = student()
    with pytest.raises(ValueError, match="matches nothing|matches no"), native_forward(model, {"nothing*": "w8a8"}):
        pass
    assert "forward" not in vars(model)
    mask_(model, 0.5)
    with pytest.raises(ValueError, match="finalize_masks_"), native_forward(model):
        pass
    model = student()
    with pytest.raises(ValueError, match="NaN"), native_forward(model):
        with torch.no_grad():
            model.bert.encoder.layer[0].output.dense.weight[0, 0] = torch.nan
        model(**inputs(2))


def test_copies_made_within_are_ordinary_models():
    """An average of weights or the best ones so far: each has its own outputs, within the context and after it."""
    model, batch = student(), inputs(4)
    with native_forward(model):
        average = torch.optim.swa_utils.AveragedModel(model)
        copied, read = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        assert type(model) is not type(copied) is type(read) is type(student())
        assert type(model).__name__ == type(copied).__name__ and isinstance(model, type(copied))
        with torch.no_grad():
            for other in (average.module, copied, read):
                other.eval().classifier.bias += 1
        check_outputs = [other(**batch).logits for other in (average, copied, read)]
        with torch.no_grad():
            model.classifier.bias -= 5
    assert type(model) is type(copied)
    expected = copied(**batch).logits
    assert all(torch.equal(logits, expected) for logits in check_outputs)
    assert not torch.allclose(expected, model(**batch).logits, atol=3)
    convert_(copied)


@pytest.mark.parametrize("assigned", [False, True])
def test_parameters_that_were_replaced(assigned):
    """Those of a module that has no native form, too."""
    model, x = nn.Sequential(nn.Linear(64, 64), nn.GroupNorm(4, 64), nn.Linear(64, 32)), torch.randn(5, 64)
    with native_forward(model), torch.no_grad():
        before = model(x)
        if assigned:
            model.load_state_dict({name: 2 * value + 1 for name, value in model.state_dict().items()}, assign=True)
        else:
            model[1].weight = nn.Parameter(2 * model[1].weight)
        after = model(x)
        assert torch.equal(after, converted(model)(x)) and not torch.equal(before, after)


def larger(model):
    model.resize_token_embeddings(300)


def another_head(model):
    model.classifier = nn.Linear(64, 2)


def wider(model):
    model.classifier.bias = nn.Parameter(torch.zeros(3))


def one_more(model):
    model.more = nn.Linear(64, 64)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (larger, "bert.embeddings.word_embeddings"),
        (another_head, "classifier"),
        (wider, "classifier"),
        (one_more, "more"),
        (lambda model: mask_(model, 0.5), "bert.encoder.layer.0.attention.self.query"),
    ],
)
def test_a_model_of_another_layout_is_refused(change, what):
    model, batch = student(), inputs(4)
    with native_forward(model), torch.no_grad():
        model(**batch)
        change(model)
        with pytest.raises(ValueError, match=f"{what} was replaced, or .*: change the model first"):
            model(**batch)


def test_a_loss_of_the_model_itself_is_refused():
    model, batch = student(), {**inputs(4), "labels": torch.tensor([0, 1, 1, 0])}
    with native_forward(model):
        with torch.no_grad():
            assert torch.isfinite(model(**batch).loss)  # nothing learns from it
        with pytest.raises(ValueError, match="compute the loss from the logits"):
            model(**batch)


def test_a_number_that_no_layer_has_a_part_in():
    """The temperature of CLIP."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(64, 64), nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.layer(x), self.scale.exp()

    model = Scaled()
    with native_forward(model):
        y, scale = model(torch.randn(3, 64))
    (y.mean() * scale).backward()
    assert model.scale.grad and model.layer.weight.grad.any()
