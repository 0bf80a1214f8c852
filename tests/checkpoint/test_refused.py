"""What a file may not say of a model of transformers: refused in words, before transformers sees it."""

import copy
import json

import pytest

transformers = pytest.importorskip("transformers")

from kdnative.checkpoint import hostile  # noqa: E402
from kdnative.nn.hf_config import to_plain  # noqa: E402
from tests.checkpoint.hostile_manifests import HOSTILE, backbone_of_a_folder, code_of_a_folder  # noqa: E402


def manifest():
    config = transformers.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=40)
    part = {"class": "BertModel", "config": to_plain(config), "attention": "sdpa"}
    return {"transformers": part, "generation": {"": {"max_length": 20}}}


def check(described):
    part = described["transformers"]
    hostile.model_class(part["class"], part["config"])
    hostile.check_config(part["config"])
    hostile.check_attention(part["attention"])
    for config in described["generation"].values():
        hostile.check_generation(config)


def config(**changes):
    return {**manifest()["transformers"]["config"], **changes}


def test_an_honest_one_passes():
    check(manifest())


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ones_are_refused(name):
    before = manifest()
    changed = HOSTILE[name](copy.deepcopy(before))
    assert changed != before
    with pytest.raises(ValueError) as refusal:
        check(changed)
    text = str(refusal.value)
    assert text.isprintable() and len(text) < 500


@pytest.mark.parametrize("change", [backbone_of_a_folder, code_of_a_folder])
def test_code_beside_it_is_refused(change):
    with pytest.raises(
        ValueError, match=r"'upernet' is not one that is built from a file; build the model in your code"
    ):
        check(change(manifest(), "folder"))


# -- classes -----------------------------------------------------------------------------------------------------------


def test_a_model_class_is_found():
    assert hostile.model_class("BertModel", config()) is transformers.BertModel
    assert hostile.model_class("CLIPTextModel", {"model_type": "clip_text_model"}) is transformers.CLIPTextModel


@pytest.mark.parametrize(
    "name",
    [
        "BertConfig",
        "Trainer",
        "pipeline",
        "PreTrainedModel",
        "AutoModel",
        "NoModel",
        "__name__",
        "os.path",
        "",
        3,
        None,
        [],
    ],
)
def test_no_model_class(name):
    with pytest.raises(ValueError, match="is not a model class of transformers"):
        hostile.model_class(name, config())


def test_class_and_configuration_must_agree():
    with pytest.raises(ValueError, match="BertModel takes a configuration of model_type 'bert', not 'gpt2'"):
        hostile.model_class("BertModel", config(model_type="gpt2"))


@pytest.mark.parametrize("kind", ["upernet", "timm_wrapper", "", None, 3, ["bert"], {}])
def test_types_that_are_not_allowed(kind):
    for call in (lambda c: hostile.model_class("BertModel", c), hostile.check_config):
        with pytest.raises(
            ValueError, match=r"its model_type .* is not one that is built from a file; build the model"
        ):
            call(config(model_type=kind))


@pytest.mark.parametrize("given", [None, [], "bert", 3])
def test_a_configuration_is_a_table(given):
    for call in (lambda c: hostile.model_class("BertModel", c), hostile.check_config, hostile.check_generation):
        with pytest.raises(ValueError, match="must be a table"):
            call(given)


# -- keys --------------------------------------------------------------------------------------------------------------

KEYS = {
    "auto_map": {"AutoModel": "evil"},
    "attribute_map": {},
    "backbone": "resnet50",
    "backbone_anything": {},
    "compile_config": {},
    "custom_generate": "evil",
    "custom_pipelines": {},
    "dola_layers": "high",
    "experts_implementation": "eager",
    "force_words_ids": [[1]],
    "is_hybrid": True,
    "kernel_config": {},
    "name_or_path": "evil",
    "_name_or_path": "evil",
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "per_layer_config": {},
    "quantization_config": {},
    "some_trust_remote_code": True,
    "sub_configs": {},
    "use_pretrained_backbone": 1,
    "use_timm_backbone": True,
}
AT_EVERY_DEPTH = {
    "at the top": lambda key, value: {key: value},
    "in a part": lambda key, value: {"text_config": {"model_type": "bert", key: value}},
    "in a list": lambda key, value: {"parts": [1, [{key: value}]]},
    "in tasks": lambda key, value: {"task_specific_params": {"fill-mask": {key: value}}},
}


@pytest.mark.parametrize("where", AT_EVERY_DEPTH)
@pytest.mark.parametrize("key", KEYS)
def test_keys(key, where):
    changed = config(**AT_EVERY_DEPTH[where](key, KEYS[key]))
    with pytest.raises(ValueError, match=rf"it sets .*{key}, which can bring code, files or kernels from elsewhere"):
        hostile.check_config(changed)
    for nothing in (None, False, ""):
        hostile.check_config(config(**AT_EVERY_DEPTH[where](key, nothing)))


def test_numbers_about_a_backbone():
    hostile.check_config(
        config(backbone_out_indices=[2, 5], backbone_featmap_shape=[1, 1024, 24, 24], num_beam_groups=1)
    )


@pytest.mark.parametrize(
    "key", ["__class__", "__dict__", "a\nb", "a\x1b[31m", "a\u202eb", "\ud800", "k" * 1001, 3, None]
)
def test_keys_that_none_has(key):
    for call in (hostile.check_config, hostile.check_generation):
        with pytest.raises(ValueError, match="its configuration has the key .* which none has") as refusal:
            call({**config(), key: 1})
        assert str(refusal.value).isprintable()


# -- texts, types and attention ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["evil-org/evil", "..\\evil", "evil--code", "a\x1b]0;b", "a\nb", "x" * 1001, "\ud800"])
def test_texts(text):
    for part in ({"note": text}, {"notes": ["fine", [text]]}, {"text_config": {"hidden_act": text}}):
        with pytest.raises(ValueError, match="which may name what lies elsewhere") as refusal:
            hostile.check_config(config(**part))
        assert str(refusal.value).isprintable()
    hostile.check_config(config(prefix=text, finetuning_task=text, id2label={"0": text}, label2id={text: 0}))
    hostile.check_config(config(task_specific_params={"summarization": {"prefix": text}}))
    hostile.check_generation({"stop_strings": [text]})


@pytest.mark.parametrize("labels", [[1], {"0": ["x"]}, {"0": {"auto_map": 1}}, {1.5: "x"}, "x", {"0": None}])
def test_labels(labels):
    with pytest.raises(ValueError, match="its id2label is not a table of texts and numbers"):
        hostile.check_config(config(id2label=labels))


@pytest.mark.parametrize("key", ["dtype", "torch_dtype", "router_dtype"])
@pytest.mark.parametrize("name", ["load", "nn", "compile", "int8", "float32 ", 3, ["float32"], {"text_config": "load"}])
def test_dtypes(key, name):
    with pytest.raises(ValueError, match=f"its {key} is .*; from a file it can be bfloat16, float16, float32, float64"):
        hostile.check_config(config(**{key: name}))
    hostile.check_config(config(**{key: {"text_config": "bfloat16", "": None}}))


GOOD_ATTENTION = [None, "eager", "sdpa", "flex_attention", {"": "eager", "text_config": "sdpa"}]
GOOD_ATTENTION += [{"": None, "vision_config": {"": "sdpa", "part_1": "eager"}}]
BAD_ATTENTION = [
    "evil/kernel",
    "flash_attention_2",
    "flash_attention_3",
    "paged|eager",
    "Eager",
    "",
    "sdpa ",
    0,
    True,
    [],
]
BAD_ATTENTION += [{}, {"text_config": "eager"}, {"": "evil/kernel"}, {"": "eager", "text_config": "evil/kernel"}]
BAD_ATTENTION += [{"": "eager", part: "sdpa"} for part in ("__class__", "_x", "Bert", "a.b", "a b", "a" * 101, 3)]
BAD_ATTENTION += [{"": "eager", "text_config": {"": "eager", "x": {"": "evil/kernel"}}}]


@pytest.mark.parametrize("attention", GOOD_ATTENTION)
def test_attention(attention):
    hostile.check_attention(attention)
    hostile.check_config(config(_attn_implementation_internal=attention))


@pytest.mark.parametrize("attention", BAD_ATTENTION)
def test_other_attention(attention):
    with pytest.raises(ValueError, match="its attention"):
        hostile.check_attention(attention)
    if attention is not True:  # configurations of some versions say whether they chose it
        with pytest.raises(ValueError, match="its text_config._attn_implementation"):
            hostile.check_config(config(text_config={"_attn_implementation": attention}))


def test_attention_without_end():
    attention = "eager"
    for _ in range(800):
        attention = {"": "eager", "text_config": attention}
    with pytest.raises(ValueError, match="its attention.text_config"):
        hostile.check_attention(attention)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "largest"),
    [
        ("vocab_size", 2**24),
        ("num_hidden_layers", 1024),
        ("n_layer", 1024),
        ("decoder_depth", 1024),
        ("depths", 1024),
        ("num_labels", 2**17),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_integers(key, largest, sign):
    hostile.check_config(config(**{key: sign * largest}))
    for value in (sign * (largest + 2), [1, [sign * largest * 2]], 10**400):
        with pytest.raises(ValueError, match=rf"its {key} is .*; from a file it can be at most {largest:,}"):
            hostile.check_config(config(**{key: value}))


@pytest.mark.parametrize("value", [float("nan"), b"x", {1}])
def test_numbers_that_are_none(value):
    for call in (hostile.check_config, hostile.check_generation):
        with pytest.raises(ValueError, match="its layer_norm_eps is .* which is not a number"):
            call(config(layer_norm_eps=value))


@pytest.mark.parametrize("value", ["NaN", "1e5", "", 3, ["Infinity"]])
def test_infinities_only(value):
    for sign in ("", "-"):
        hostile.check_config(config(limits=[0.5, float(f"{sign}inf"), {"__float__": f"{sign}Infinity"}]))
    with pytest.raises(ValueError, match="the key '__float__', which none has"):
        hostile.check_config(config(limits={"__float__": value}))


def test_large_floats():
    hostile.check_config(config(mask_value=-3.4e38, rope_theta=10**38))
    for changes in ({"mask_value": 1e39}, {"rope_theta": 10**39}):
        with pytest.raises(ValueError, match=r"at most 3\.5e\+38"):
            hostile.check_config(config(**changes))


def test_integers_of_generation():
    hostile.check_generation({"max_length": 2**31, "num_layers": 5000})
    with pytest.raises(ValueError, match=r"its max_length is .* at most 2,147,483,648"):
        hostile.check_generation({"max_length": 2**31 + 1})


def test_layers_of_a_list_add_up():
    hostile.check_config(config(depths=[1024] * 4))
    with pytest.raises(ValueError, match="its depths add up to more than 4,096 layers"):
        hostile.check_config(config(depths=[1024] * 4 + [1]))


def test_tables_that_python_fills():
    marian = to_plain(transformers.MarianConfig())
    hostile.check_config({**marian, "max_position_embeddings": 2048})
    for changes in ({"max_position_embeddings": 2049}, {"hidden_size": 2049}):  # also by another name of d_model
        with pytest.raises(ValueError, match="which are computed one by one"):
            hostile.check_config({**marian, **changes})
    distilbert = {**to_plain(transformers.DistilBertConfig()), "max_position_embeddings": 8192}
    hostile.check_config(distilbert)
    with pytest.raises(ValueError, match="which are computed one by one"):
        hostile.check_config({**distilbert, "sinusoidal_pos_embds": True})
    video = to_plain(transformers.VideoMAEConfig())
    hostile.check_config(video)
    for changes in ({"num_frames": 32}, {"image_size": [448, 448]}, {"patch_size": 0}, {"hidden_size": 1408}):
        with pytest.raises(ValueError, match="which are computed one by one"):
            hostile.check_config({**video, **changes})
    pair = {"model_type": "encoder-decoder", "encoder": marian, "decoder": marian}
    hostile.check_config(pair)
    with pytest.raises(ValueError, match="its decoder has over"):
        hostile.check_config({**pair, "encoder": {**marian, "max_position_embeddings": 2048}})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Wav2Vec2Config", {"num_codevectors_per_group": 2**16}),
        ("UniSpeechSatConfig", {"num_clusters": 2**17}),
        ("ViTMAEConfig", {"image_size": 8192}),
        ("ViTMAEConfig", {"patch_size": 0, "image_size": [224, 224]}),
    ],
)
def test_tensors_that_are_made_at_once(kind, changes):
    plain = to_plain(getattr(transformers, kind)())
    hostile.check_config(plain)
    with pytest.raises(ValueError, match="that is made when it is built"):
        hostile.check_config({**plain, **changes})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"deep": json.loads("[" * 13 + "]" * 13)}, "more than 12 levels"),
        ({"deep": json.loads('{"a":' * 900 + "1" + "}" * 900)}, "more than 12 levels"),
        ({"wide": [{}] * 1001}, "more than 1,000 tables"),
        ({"out_features": ["stem"] * 8193}, "8,193 items; from a file it can have 8,192"),
    ],
)
def test_nesting_and_lists(changes, text):
    with pytest.raises(ValueError, match=text):
        hostile.check_config(config(**changes))
