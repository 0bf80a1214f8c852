"""The types of models that a file may have built: harmless in every version of transformers, and complete."""

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")

from kdnative.checkpoint import hostile  # noqa: E402
from kdnative.checkpoint.allowed import ATTENTION, MODEL_TYPES, MODEL_TYPES_BY_GROUP  # noqa: E402
from kdnative.models import register, unregister  # noqa: E402
from kdnative.models.families import TABLE  # noqa: E402
from kdnative.nn.hf_config import to_plain  # noqa: E402
from tests.checkpoint import transformers_types  # noqa: E402

PARTS = 2  # processes that build models


def test_the_list_is_in_order():
    for group, names in MODEL_TYPES_BY_GROUP.items():
        assert list(names) == sorted(set(names)), group
    assert sum(map(len, MODEL_TYPES_BY_GROUP.values())) == len(MODEL_TYPES)
    assert {None, "eager", "sdpa"} <= ATTENTION and not any("/" in (name or "") for name in ATTENTION)


def test_families_of_the_table_are_allowed_and_no_others():
    assert {kind for row in TABLE for kind in row.checkpoint} < MODEL_TYPES
    assert len(MODEL_TYPES) == 231  # each one was read: a number that grows by what was read


def test_registering_a_family_allows_nothing():
    row = replace(TABLE[0], name="mine", origin=__name__, checkpoint=("my-type",))
    with pytest.raises(ValueError, match=r"names model types for checkpoints \(my-type\)"):
        register(row)
    register(replace(row, checkpoint=()))
    try:
        assert "my-type" not in MODEL_TYPES and len(MODEL_TYPES) == 231
        with pytest.raises(ValueError, match="my-type"):
            hostile.check_config({"model_type": "my-type"})
    finally:
        unregister("mine")


def test_every_type_is_one_of_transformers():
    """Or of another version that is supported."""
    known = {kind for kind, _ in transformers_types.configurations()}
    later = {"audioflamingo3", "audioflamingo3_encoder", "eurobert", "granite_docling", "granite_docling_text"}
    later |= {"granite_docling_vision", "gte", "jina_embeddings_v3", "ministral", "nomic_bert", "olmo3", "pixio"}
    later |= {"qwen2_5_vl_vision", "qwen2_vl_vision", "radio", "speecht5_hifigan"}
    missing = MODEL_TYPES - known
    if int(transformers.__version__.partition(".")[0]) >= 5:
        assert missing <= {"hifigan"}
    else:
        assert missing <= later


def test_what_is_fused_is_allowed():
    """Whatever model a class of layers or encoders that is fused belongs to, and every part of that model."""
    fused = {name for row in TABLE for name in (*row.layers, *row.models)}
    found = set()
    for file in transformers_types.MODELS.glob("*/modeling_*.py"):
        if own := fused & set(re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)):
            found |= own
            for configuration in file.parent.glob("configuration_*.py"):
                kinds = transformers_types.declared_types(configuration)
                assert kinds <= MODEL_TYPES, (
                    f"{file.name} has {sorted(own)}; not allowed: {sorted(kinds - MODEL_TYPES)}"
                )
    assert len(found) > 60


# -- they are built ----------------------------------------------------------------------------------------------------


def report_of(*command):
    """What building them did in a fresh process that may use its terminal."""
    root = Path(__file__).parents[2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=range(PARTS))
def report(request):
    return report_of("-m", "tests.checkpoint.build_allowed", str(request.param), str(PARTS))


def test_every_type_is_built(report):
    assert report["failed"] == {}
    assert len(report["built"]) > 90


def test_building_stays_in_the_process(report):
    assert report["events"] == []
    assert report["strangers"] == []


LEAKY = """
import contextlib, socket, subprocess
from tests.checkpoint import build_allowed

def build(*arguments):
    with contextlib.suppress(OSError):
        socket.socket()
    subprocess.run(["true"])

build_allowed.build = build
build_allowed.main(0, 300)
"""


def test_what_leaves_the_process_is_seen():
    seen = report_of("-c", LEAKY)["events"]
    assert any("socket." in line for line in seen) and any("subprocess.Popen" in line for line in seen)


# -- nothing of them is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), sorted(transformers_types.configurations()))
def test_its_configuration_is_accepted(kind, name):
    config = transformers_types.default(transformers_types.configurations()[kind, name])
    plain = to_plain(config)
    hostile.check_config(plain)
    labels = {"0": "a/b\\c--d", "1": "\x1b]0;evil\x07\n", "2": "backbone"}
    hostile.check_config({**plain, "id2label": labels, "label2id": {text: int(i) for i, text in labels.items()}})
    for part in getattr(config, "sub_configs", {}):
        if (own := getattr(config, part, None)) is not None:
            assert getattr(own, "model_type", "") in {*MODEL_TYPES, ""}, part


def test_a_model_that_is_in_use_is_accepted():
    """What published configurations hold besides what their classes define."""
    hostile.check_config(
        {
            **to_plain(transformers.T5Config()),
            "_name_or_path": "",
            "architectures": ["T5ForConditionalGeneration"],
            "dtype": "bfloat16",
            "finetuning_task": "glue/mnli",
            "prefix": " ",
            "pruned_heads": {"1": [0, 2]},
            "task_specific_params": {"translation_en_to_de": {"prefix": "translate English to\tGerman/Dutch: "}},
            "torch_dtype": "float32",
            "transformers_version": "4.31.0.dev0",
        }
    )
    hostile.check_config({**to_plain(transformers.LlamaConfig()), "rope_theta": 45_845_238_922, "vocab_size": 262_208})
    hostile.check_config({**to_plain(transformers.LlamaConfig()), "max_position_embeddings": 10_485_760})
    hostile.check_generation(
        {
            "bad_words_ids": [[token] for token in range(10_000)],
            "begin_suppress_tokens": [220, 50_256],
            "cache_implementation": "static",
            "forced_decoder_ids": [[1, None], [2, 50_359]],
            "lang_to_id": {"<|en|>": 50_259},
            "max_length": 2**31 - 1,
            "num_beam_groups": 1,
            "sequence_bias": [[[1, 2], -1e30]],
            "stop_strings": ["</s>", "\n\n"],
            "task_to_id": {"transcribe": 50_359},
            "watermarking_config": {"greenlist_ratio": 0.25, "hashing_key": 15_485_863, "seeding_scheme": "lefthash"},
        }
    )


# -- what their sources call -------------------------------------------------------------------------------------------

# What reads, fetches or runs more than what is installed.
ELSEWHERE = {
    "AutoBackbone",
    "cached_file",
    "create_model",
    "exec",
    "from_pretrained",
    "get_class_from_dynamic_module",
    "get_kernel",
    "hf_hub_download",
    "import_module",
    "lazy_load_kernel",
    "load_and_register_attn_kernel",
    "load_and_register_kernel",
    "load_backbone",
    "load_state_dict_from_url",
    "snapshot_download",
    "urlopen",
}
# Methods that only callers of a model call, by what they are for.
OF_CALLERS = ("from_pretrained", "from_encoder_decoder_pretrained", "from_vision_text_pretrained", "load_adapter")


def calls(tree):
    """``(functions around it, outermost first, call)`` of every call in a file."""

    def visit(node, around):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                yield around, child
            inner = isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
            yield from visit(child, (*around, child.name) if inner else around)

    return visit(tree, ())


def called(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def test_they_read_nothing_from_elsewhere():
    found = set()
    for file in transformers_types.sources("configuration", "modeling"):
        for around, call in calls(transformers_types.parsed(file)):
            if called(call) in ELSEWHERE and not set(OF_CALLERS) & set(around):
                found.add((file.parent.name, called(call)))
    # A backbone is read where a configuration names one, and such a configuration is refused; see the next test.
    assert found <= {("dpt", "load_backbone")}


@pytest.mark.parametrize(
    "changes",
    [
        {"is_hybrid": True},
        {"backbone": "evil-org/evil"},
        {"backbone_config": {"model_type": "bit"}},
        {"backbone": True},
    ],
)
def test_no_backbone_is_read(changes):
    with pytest.raises(ValueError, match="elsewhere"):
        hostile.check_config({**to_plain(transformers.DPTConfig()), **changes})


def test_parts_of_any_type_are_configurations():
    """``AutoModel.from_config`` builds what a part of the configuration says, and the type of a part is checked."""
    models = 0
    for file in transformers_types.sources("modeling"):
        for around, call in calls(transformers_types.parsed(file)):
            if called(call) != "from_config" or set(OF_CALLERS) & set(around):
                continue
            models += 1
            part, *others = [*call.args, *(k.value for k in call.keywords if k.arg == "config")]
            owner, _, name = ast.unparse(part).rpartition(".")
            assert owner in ("config", "self.config") and not others, f"{file.name}: {ast.unparse(call)}"
            assert all(k.arg in ("attn_implementation", "config") for k in call.keywords), ast.unparse(call)
            assert any(name in getattr(cls, "sub_configs", {}) for cls in configurations_of(file)), ast.unparse(call)
    assert models > 10


def configurations_of(file):
    package = f"transformers.models.{file.parent.name}."
    return [cls for cls in transformers_types.configurations().values() if cls.__module__.startswith(package)]
