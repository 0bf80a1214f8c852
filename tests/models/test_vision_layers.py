"""Layers of timm, torchvision and OpenCLIP as one operator: against the oracle, these libraries, and in models."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdnative import convert_, load, save
from kdnative.models.known_layers import is_layer
from kdnative.nn import EncoderLayer, Linear, MultiheadAttention
from tests.nn import encoder_oracle
from tests.nn.encoder_models import check_close, layer_from, randomized
from tests.small_models import rows

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
open_clip = pytest.importorskip("open_clip")

QuickGELU, ResidualAttentionBlock = open_clip.transformer.QuickGELU, open_clip.transformer.ResidualAttentionBlock
GluMlp, SwiGLU, SwiGLUPacked = timm.layers.GluMlp, timm.layers.SwiGLU, timm.layers.SwiGLUPacked
Eva, EvaBlock = timm.models.eva.Eva, timm.models.eva.EvaBlock
Block, DiffAttention = timm.models.vision_transformer.Block, timm.models.vision_transformer.DiffAttention
EncoderBlock = torchvision.models.vision_transformer.EncoderBlock

WIDTH, HEADS = 48, 3
EVA = {"rotate_half": True, "num_prefix_tokens": 1}
LAYERS = {
    "timm": lambda **changes: Block(WIDTH, HEADS, **{"qkv_bias": True, **changes}),
    "timm, layer scale, no bias": lambda: Block(WIDTH, HEADS, init_values=0.5),
    "timm, SwiGLU": lambda: Block(WIDTH, HEADS, mlp_layer=SwiGLU, act_layer=nn.SiLU),
    "timm, packed SwiGLU": lambda: Block(WIDTH, HEADS, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU),
    "timm, quick GELU": lambda: Block(WIDTH, HEADS, act_layer=timm.layers.get_act_layer("quick_gelu")),
    "timm, own GELU": lambda: Block(WIDTH, HEADS, act_layer=timm.layers.activations.GELU),
    "timm, EVA": lambda **changes: EvaBlock(WIDTH, HEADS, **{**EVA, **changes}),
    "timm, EVA, biases apart": lambda: EvaBlock(WIDTH, HEADS, **EVA, init_values=0.5),
    "timm, EVA, SwiGLU": lambda: EvaBlock(WIDTH, HEADS, **EVA, qkv_fused=False, swiglu_mlp=True),
    "torchvision": lambda: EncoderBlock(HEADS, WIDTH, 100, 0.1, 0.1),
    "OpenCLIP": lambda **changes: ResidualAttentionBlock(WIDTH, HEADS, **changes),
    "OpenCLIP, quick GELU": lambda: ResidualAttentionBlock(WIDTH, HEADS, act_layer=QuickGELU, ls_init_value=0.5),
}


def layer(kind, **changes):
    torch.manual_seed(0)
    return randomized(LAYERS[kind](**changes))


def native(module, scheme="w8a8"):
    found = layer_from(module, scheme)
    assert isinstance(found, EncoderLayer), found
    return found


def turning(kind, size, length):
    """Angles as the oracle takes them, and what timm gives to its layers: none for the first token."""
    if "EVA" not in kind:
        return None, {}
    angles = torch.randn(length - 1, WIDTH // HEADS // 2, generator=torch.Generator().manual_seed(2))
    whole = torch.cat([torch.zeros(1, angles.shape[1]), angles]).expand(size, -1, -1)
    return whole.numpy(), {"rope": torch.cat([angles.sin(), angles.sin(), angles.cos(), angles.cos()], dim=-1)}


def causal(tokens):
    return torch.full((tokens, tokens), -torch.inf).triu(1)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("size", "length"), [(1, 1), (2, 17), (3, 130)])
def test_matches_the_oracle_and_the_library(kind, size, length):
    theirs, x = layer(kind), torch.randn(size, length, WIDTH, generator=torch.Generator().manual_seed(1))
    ours, everything = native(theirs), torch.ones(size, length, dtype=torch.bool)
    angles, rope = turning(kind, size, length)
    masks = [None] if kind == "torchvision" else [None, causal(length)]
    for mask in masks:
        options = {} if mask is None else {"attn_mask": mask}
        options |= rope
        actual = ours(x, **options)
        oracle = encoder_oracle.encode_states(ours.spec, ours.state_dict(), x, everything, mask is not None, angles)
        check_close(actual, oracle, everything)
        with torch.no_grad():
            expected = theirs(x, **options)
        assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99
        assert (actual - expected).norm() < 0.06 * expected.norm()


def test_masks():
    ours, theirs, x = native(layer("timm")), layer("timm"), torch.randn(2, 9, WIDTH)
    keep = torch.rand(2, 9) < 0.7
    keep[:, 0] = True
    mask = keep[:, None, None].expand(-1, -1, 9, -1)
    with torch.no_grad():
        expected = theirs(x, attn_mask=mask)
        assert torch.cosine_similarity(ours(x, attn_mask=mask), expected, dim=-1)[keep].min() > 0.99
        assert torch.equal(ours(x, is_causal=True), ours(x, attn_mask=causal(9)))
    for wrong in (causal(9).t(), torch.zeros(9, 9)):
        with pytest.raises(RuntimeError, match=r"this attention_mask is another one: convert_\(..., fuse=False\)"):
            ours(x, attn_mask=wrong)
    for wrong in (causal(8), causal(9).expand(2, 9, 9)):
        with pytest.raises(RuntimeError, match=r"of shape \[batch, 1, 9, 9\], got"):
            ours(x, attn_mask=wrong)


REFUSED = {
    "q_norm, LayerNorm": lambda: layer("timm", qk_norm=True),
    "norm, LayerNorm": lambda: layer("timm", scale_attn_norm=True),
    "DiffAttention where Attention": lambda: layer("timm", attn_layer=DiffAttention),
    "half of its feed-forward network is the gate": lambda: layer("timm", mlp_layer=GluMlp),
    "normalisations is no LayerNorm": lambda: layer("timm", norm_layer=timm.layers.RmsNorm),
    "rotary positions turn neighbours": lambda: layer("timm, EVA", rotate_half=False),
    "gate, Linear": lambda: layer("timm, EVA", gated_attn=True),
    "activation Mish has no kernel": lambda: layer("timm", act_layer=nn.Mish),
    "has the batch in its second dimension": lambda: layer("OpenCLIP", batch_first=False),
    "keys and values are those of other tokens": lambda: layer("OpenCLIP", is_cross_attention=True),
    "in the dtype of its weights": lambda: layer("OpenCLIP").bfloat16(),
}


@pytest.mark.parametrize("words", REFUSED)
def test_layers_that_do_something_else_are_refused(words):
    theirs = REFUSED[words]()
    assert words in layer_from(theirs, "w8a8")
    report = rows(convert_(nn.Sequential(theirs)))
    assert words in report["0"].reason and sum(row.action == "converted" for row in report.values()) >= 3


# -- models ------------------------------------------------------------------------------------------------------------


def timm_model(**options):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "num_classes": 10}
    return timm.models.VisionTransformer(**sizes, **options)


def dinov3():
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS, "num_classes": 10}
    positions = {"use_abs_pos_emb": False, "use_rot_pos_emb": True, "rope_type": "dinov3", "rope_rotate_half": True}
    return Eva(**sizes, **positions, num_reg_tokens=2, init_values=0.5, qkv_bias=False, dynamic_img_size=True)


def torchvision_model():
    return torchvision.models.VisionTransformer(32, 8, 2, HEADS, WIDTH, 100, num_classes=10)


def clip():
    vision = {"image_size": 32, "layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8}
    text = {"context_length": 12, "vocab_size": 90, "width": WIDTH, "heads": HEADS, "layers": 2}
    return open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, output_dict=True)


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


MODELS = {
    "timm": (timm_model, 2, lambda m: m(images())),
    "timm's DINOv3": (dinov3, 2, lambda m: m(images())),
    "timm's tokens": (lambda: timm_model(reg_tokens=4, init_values=0.5), 2, lambda m: m.forward_features(images())),
    "torchvision": (torchvision_model, 2, lambda m: m(images())),
    "OpenCLIP images": (clip, 4, lambda m: m.encode_image(images(), normalize=True)),
    "OpenCLIP texts": (clip, 4, lambda m: m.encode_text(torch.arange(24).view(2, 12), normalize=True)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models(kind, tmp_path):
    make, layers, run = MODELS[kind]
    torch.manual_seed(0)
    ours = randomized(make())
    other = copy.deepcopy(ours)
    with torch.no_grad():
        expected = run(ours)
        converted = convert_(ours)
        report = rows(converted)
        assert sum(type(module) is EncoderLayer for module in ours.modules()) == layers
        assert not any(is_layer(module) or type(module) is nn.MultiheadAttention for module in ours.modules())
        actual = run(ours)
        assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.99
        save(ours, tmp_path / "m")
        assert load(tmp_path / "m", into=other) is other and torch.equal(run(other), actual)
        assert torch.equal(run(copy.deepcopy(ours)), actual)
    tensors = [*ours.parameters(), *ours.buffers()]
    without_row = sum(
        t.numel() * t.element_size() for m in ours.modules() for t in m._buffers.values() if not m._parameters
    )
    total = sum(t.numel() * t.element_size() for t in tensors)
    assert 0 <= total - converted.totals["bytes_after"] <= without_row
    assert sum(row.reason == "the whole encoder is one native operator" for row in report.values()) == layers
    assert sum("runs inside the fused encoder" in row.reason for row in report.values()) >= 6 * layers


def test_compiles_to_one_graph():
    ours, x = convert_(randomized(timm_model())).model, images()
    with torch.inference_mode():
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(x), ours(x))


def test_linear_by_linear():
    torch.manual_seed(0)
    for make in (timm_model, torchvision_model):
        ours = randomized(make())
        with torch.no_grad():
            expected = ours(images())
            convert_(ours, fuse=False)
            assert torch.cosine_similarity(ours(images()), expected, dim=-1).min() > 0.99
        kinds = [type(module) for module in ours.modules()]
        assert EncoderLayer not in kinds and kinds.count(MultiheadAttention) == (2 if make is torchvision_model else 0)
        assert kinds.count(Linear) >= 8


def coca():
    vision = {"image_size": 32, "layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8}
    vision |= {"attentional_pool": True, "attn_pooler_heads": HEADS, "output_tokens": True}
    text = {"context_length": 12, "vocab_size": 90, "width": WIDTH, "heads": HEADS, "layers": 2}
    decoder = {"context_length": 12, "width": WIDTH, "heads": HEADS, "layers": 2}
    return open_clip.CoCa(WIDTH, decoder, {**text, "embed_cls": True, "output_tokens": True}, vision)


def padded_clip():
    ours = clip()
    text = {"context_length": 12, "vocab_size": 90, "width": WIDTH, "heads": HEADS, "layers": 2}
    ours.text = open_clip.transformer.TextTransformer(**text, no_causal_mask=True, use_pad_mask=True)
    return ours


@pytest.mark.parametrize("make", [coca, padded_clip])
def test_text_towers_with_masks_over_pairs_are_converted_linear_by_linear(make):
    torch.manual_seed(0)
    ours, ids = randomized(make()), torch.arange(24).view(2, 12).clamp(max=18)
    ids[1, 8:] = 0  # padding

    def pooled():
        output = ours.text(ids)
        return output[0] if isinstance(output, tuple) else output

    with torch.no_grad():
        expected = pooled()
        report = rows(convert_(ours))
        assert torch.cosine_similarity(pooled(), expected, dim=-1).min() > 0.99
    assert not any(type(module) is EncoderLayer for module in ours.text.modules())
    assert sum(type(module) is EncoderLayer for module in ours.visual.modules()) == 2
    why = report["text.transformer.resblocks.0"].reason
    assert "not fused: TextTransformer, which contains it, passes it attention masks over pairs of tokens" in why
