"""The types of models that a file may have built, as the installed transformers has them."""

import ast
import copy
import importlib
import inspect
from functools import cache
from pathlib import Path

import transformers

from kdnative.checkpoint.allowed import MODEL_TYPES

MODELS = Path(transformers.__file__).parent / "models"

_BERT = {"model_type": "bert", "num_hidden_layers": 1}
NEEDED = {  # what has no default, or none that can be built
    "encoder-decoder": {"encoder": _BERT, "decoder": {**_BERT, "is_decoder": True}},
    "esm": {"vocab_size": 33, "pad_token_id": 1},
    "idefics3": {"pad_token_id": 2},
    "ministral": {"head_dim": 32, "num_key_value_heads": 8},
    "smolvlm": {"pad_token_id": 2},
    "speech-encoder-decoder": {"encoder": {"model_type": "wav2vec2", "num_hidden_layers": 1}, "decoder": _BERT},
    "time_series_transformer": {"prediction_length": 8},
    "vision-encoder-decoder": {"encoder": {"model_type": "vit", "num_hidden_layers": 1}, "decoder": _BERT},
    "vision-text-dual-encoder": {"vision_config": {"model_type": "vit", "num_hidden_layers": 1}, "text_config": _BERT},
}
_PREFERRED = (
    "ForPreTraining",
    "ForConditionalGeneration",
    "LMHeadModel",
    "ForCausalLM",
    "ForSequenceClassification",
    "ForImageClassification",
    "Model",
)


def is_configuration(value):
    return inspect.isclass(value) and issubclass(value, transformers.PretrainedConfig)


@cache
def configurations():
    """``{(type, name of the class): class}`` of allowed types, parts of models among them."""
    found = {}
    for file in sorted(MODELS.glob("*/configuration_*.py")):
        if not declared_types(file) & MODEL_TYPES:
            continue
        module = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
        for name, value in vars(module).items():
            own = is_configuration(value) and value.__module__ == module.__name__
            if own and value.model_type in MODEL_TYPES:
                found[value.model_type, name] = value
    return found


def declared_types(file):
    """The types that a file's classes say to be of."""
    lines = [line for cls in ast.walk(parsed(file)) if isinstance(cls, ast.ClassDef) for line in cls.body]
    set_here = [
        line.value for line in lines if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "model_type"
    ]
    return {value.value for value in set_here if isinstance(value, ast.Constant)}


@cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def sources(*kinds):
    """Files of the models of allowed types, ``kinds`` of them: "modeling", "configuration"."""
    folders = sorted({Path(inspect.getfile(cls)).parent for cls in configurations().values()})
    files = [file for folder in folders for kind in kinds for file in sorted(folder.glob(f"{kind}_*.py"))]
    return [file for file in files if not file.stem.startswith(("modeling_tf_", "modeling_flax_"))]


def default(cls):
    return cls.from_dict(copy.deepcopy(NEEDED.get(cls.model_type, {})))


def with_few_layers(plain):
    """The same configuration with two layers, where only a number says how many there are."""
    if plain.get("out_features"):  # names of layers
        return plain
    lengths = {len(value) for value in plain.values() if isinstance(value, list)}
    for key, value in plain.items():
        if isinstance(value, dict):
            with_few_layers(value)
        elif key.endswith(("layers", "n_layer", "depth")) and type(value) is int and value > 2 and value not in lengths:
            plain[key] = 2
    return plain


def model_name(cls):
    """A class of models that transformers exports for a class of configurations; None if there is none."""
    names = []
    for file in sources("modeling"):
        if file.parent == Path(inspect.getfile(cls)).parent:
            module = importlib.import_module(f"transformers.models.{file.parent.name}.{file.stem}")
            names += [n for n, value in vars(module).items() if _is_model(value, cls) and hasattr(transformers, n)]
    order = {name: next((i for i, end in enumerate(_PREFERRED) if name.endswith(end)), 99) for name in names}
    return min(names, key=order.get, default=None)


def _is_model(value, config):
    model = inspect.isclass(value) and issubclass(value, transformers.PreTrainedModel)
    return model and value.config_class is config and not value.__name__.endswith("PreTrainedModel")
