"""What a model has besides structure and tensors: generation configs, frozen parameters, hooks."""

import json

import pytest
import torch
from torch import nn

from kdnative.checkpoint import CheckpointError, inspect, load, save
from kdnative.convert import convert_
from kdnative.nn import Linear
from tests.checkpoints import assert_same, edit, ids, mlp, output
from tests.nn.layer_configs import SEQ2SEQ, WHISPER
from tests.small_models import bert

# -- generation --------------------------------------------------------------------------------------------------------


def generator(kind="Marian", seed=0, **options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    sizes = WHISPER if kind == "Whisper" else SEQ2SEQ
    config = getattr(transformers, f"{kind}Config")(**{**sizes, "max_position_embeddings": 40, **options})
    names = {"Marian": "MarianMTModel", "Whisper": "WhisperForConditionalGeneration"}
    return getattr(transformers, names[kind])(config).eval()


def tokens(model):
    with torch.inference_mode():
        return model.generate(ids() % 90 + 2)


SETTINGS = {
    "num_beams": 3,
    "max_length": 10,
    "forced_eos_token_id": 99,
    "bad_words_ids": [[5], [6, 7]],
    "suppress_tokens": [11, 12],
    "sequence_bias": {(17,): 3.5, (18, 19): -2.0},  # of which JSON has no form
    "exponential_decay_length_penalty": (3, 1.2),
}


@pytest.mark.parametrize("convert", [False, True])
def test_generation_settings(tmp_path, convert):
    model = generator()
    plain = tokens(model)
    for name, value in SETTINGS.items():
        setattr(model.generation_config, name, value)
    if convert:
        convert_(model)
    save(model, tmp_path / "m")
    expected = tokens(model)
    assert expected.shape != plain.shape or not torch.equal(expected, plain)
    other = generator(seed=1)
    for loaded in (load(tmp_path / "m"), load(tmp_path / "m", into=other)):
        assert torch.equal(tokens(loaded), expected)
        config = loaded.generation_config.to_dict()
        assert {name: config[name] for name in ("num_beams", "max_length", "suppress_tokens")} == {
            "num_beams": 3, "max_length": 10, "suppress_tokens": [11, 12],
        }  # fmt: skip
    save(load(tmp_path / "m"), tmp_path / "again")
    assert torch.equal(tokens(load(tmp_path / "again")), expected)


def test_settings_that_only_one_family_has(tmp_path):
    model = generator("Whisper")
    model.generation_config.lang_to_id = {"<|en|>": 3, "<|de|>": 4}
    model.generation_config.begin_suppress_tokens = [7, 8]
    model.generation_config.alignment_heads = [[0, 1], [1, 2]]
    convert_(model)
    save(model, tmp_path / "m")
    for loaded in (load(tmp_path / "m"), load(tmp_path / "m", into=generator("Whisper", 1))):
        assert loaded.generation_config.lang_to_id == {"<|en|>": 3, "<|de|>": 4}
        assert loaded.generation_config.begin_suppress_tokens == [7, 8]
        assert loaded.generation_config.alignment_heads == [[0, 1], [1, 2]]


def test_settings_of_a_model_inside_another(tmp_path):
    class Pair(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.first, self.second = generator(seed=seed), nn.Linear(64, 64)

    model, other = Pair(0).eval(), Pair(1)
    model.first.generation_config.max_length = 6
    save(convert_(model).model, tmp_path / "m")
    load(tmp_path / "m", into=other)
    assert other.first.generation_config.max_length == 6
    assert torch.equal(tokens(other.first.eval()), tokens(model.first))


def test_settings_that_were_changed_or_are_none(tmp_path):
    save(generator(), tmp_path / "m")
    file = tmp_path / "m" / "kdnative.json"
    manifest = json.loads(file.read_text())
    manifest["generation"][""]["num_beams"] = 4
    file.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="changed since it was saved"):
        load(tmp_path / "m")
    for damage in ({"": 3}, {"": {"__class__": "x"}}, {"nowhere": {}}, {"": {"watermarking_config": "x"}}):
        edit(tmp_path / "m", lambda m, damage=damage: m.update(generation=damage))
        for into in (None, generator()):
            with pytest.raises(CheckpointError, match="m"):
                load(tmp_path / "m", into=into)
    for name in ("generation", "frozen"):
        edit(tmp_path / "m", lambda m, name=name: m.update({"generation": {}, name: 3}))
        with pytest.raises(CheckpointError, match=f"damaged: '{name}' is missing or not "):
            load(tmp_path / "m")


def test_settings_that_can_not_be_stored(tmp_path):
    model = generator()
    model.generation_config.constraints = [object()]
    with pytest.raises(CheckpointError, match="generation config of the model holds what can't be stored.*generate"):
        save(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


# -- frozen parameters -------------------------------------------------------------------------------------------------


def test_frozen_parameters(tmp_path):
    every, some, none = bert(), bert(), bert()
    every.requires_grad_(False)
    some.bert.embeddings.requires_grad_(False)
    for model in (every, some, none):
        convert_(model, fuse=False)
        flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        save(model, tmp_path / "m")
        for loaded in (load(tmp_path / "m"), load(tmp_path / "m", into=bert(1))):
            assert {name: p.requires_grad for name, p in loaded.named_parameters()} == flags
    names = [name for name, parameter in some.named_parameters() if not parameter.requires_grad]
    for model, expected in ((every, "all"), (some, names), (none, [])):
        save(model, tmp_path / "m")
        assert json.loads((tmp_path / "m" / "kdnative.json").read_text())["frozen"] == expected
    assert names == ["bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.bias"]


def test_a_frozen_model_runs_without_no_grad(tmp_path):
    """Native linears refuse inputs that require grad."""
    model = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 64)).eval().requires_grad_(False)
    x = torch.randn(3, 64)
    save(convert_(model).model, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m")(x), model(x))


def test_frozen_parameters_that_are_tied(tmp_path):
    model = bert(kind="BertForMaskedLM")
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    assert not loaded.cls.predictions.decoder.weight.requires_grad
    assert sum(not p.requires_grad for p in loaded.parameters()) == 1


def test_what_the_callers_model_has_frozen_stays_so(tmp_path):
    save(mlp(), tmp_path / "m")
    other = mlp(1)
    other[1].requires_grad_(False)
    load(tmp_path / "m", into=other)
    assert [n for n, p in other.named_parameters() if not p.requires_grad] == ["1.weight", "1.bias"]


# -- code of single modules --------------------------------------------------------------------------------------------


def double(module, *given):
    return given[-1] * 2


@pytest.mark.parametrize("make", [mlp, lambda: bert(num_labels=20)])
def test_models_with_hooks_are_filled_only(tmp_path, make):
    def hooked(seed):
        model = make().eval()
        layer = [module for module in model.modules() if isinstance(module, nn.Linear)][seed]
        return model, layer.register_forward_hook(double)

    model, handle = hooked(-1)
    name = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    convert_(model)
    save(model, tmp_path / "m")
    with pytest.raises(CheckpointError, match=rf"because {name} has hooks, which a file does not hold.*into=model"):
        load(tmp_path / "m")
    assert inspect(tmp_path / "m")["rebuild"] == "into"
    assert_same(model, load(tmp_path / "m", into=hooked(-1)[0]))
    handle.remove()
    save(model, tmp_path / "m")
    assert_same(model, load(tmp_path / "m"))


def test_hooks_of_the_whole_model_and_of_native_modules(tmp_path):
    for place in ("", "1"):
        for hook in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
            model = convert_(mlp()).model
            assert type(model[1]) is Linear
            getattr(model.get_submodule(place), hook)(lambda *given: None)
            save(model, tmp_path / "m")
            with pytest.raises(CheckpointError, match=f"because {place or 'the model'} has hooks"):
                load(tmp_path / "m")


def test_forwards_set_on_an_instance(tmp_path):
    model = mlp()
    model[3].forward = lambda x: x * 2
    save(model, tmp_path / "m")
    with pytest.raises(CheckpointError, match="because 3 has a forward of its own, set on the instance"):
        load(tmp_path / "m")


def test_hooks_of_transformers_are_no_obstacle(tmp_path):
    model = bert()
    with torch.no_grad():
        model(ids(), output_hidden_states=True, output_attentions=True)  # leaves hooks behind that record them
    model.enable_input_require_grads()
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    if hooks <= 1:
        pytest.skip("transformers 4 records without hooks")
    save(model, tmp_path / "m")
    assert_same(model, load(tmp_path / "m"))


def test_wrappers_of_accelerate_are_no_obstacle(tmp_path):
    """It is not installed here: this does what its prepare() does to a model that Trainer trains in bfloat16."""
    model = bert()
    model._original_forward, model.forward = model.forward, lambda *given, **named: type(model).forward(model, *given)
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert torch.equal(output(loaded), output(model))


def test_hooks_that_a_constructor_registers_come_back(tmp_path, monkeypatch):
    model = bert()
    made = type(model).__init__

    def with_hook(self, *given, **named):
        made(self, *given, **named)
        self.classifier.register_forward_hook(double)

    monkeypatch.setattr(type(model), "__init__", with_hook)
    model = bert()
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert len(loaded.classifier._forward_hooks) == 1
    assert_same(model, loaded)
