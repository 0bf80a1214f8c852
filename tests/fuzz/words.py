"""Numbers, texts and names that programs stumble over, and those of kdnative's own formats."""

__all__ = ["CANARY", "KEYS", "NUMBERS", "OUTSIDE", "TEXTS"]

CANARY = "kdnative_fuzz_canary"
"""A module that nothing imports unless it runs what a file says."""

OUTSIDE = "outside.safetensors"
"""A file beside the folder of an input, with weights that fit: nothing may open it."""

NUMBERS = [
    *(0, 1, -1, 2, 3, 7, 8, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000, 4096, 65535, 65536, 100_000),
    *(2**24, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**18),
    *(0.0, -0.0, 0.5, -1.5, 1e-5, 1e-45, 1e38, 1e300, float("nan"), float("inf"), float("-inf"), 10**30),
]

_NAMES = """
w8a8 w4a8-g32 w4a8-g64 w2a8-g32 w4a8-g32-asym w4a8-g32-int w8a16 w4a16-g32 w8a8+4x1 w8a8+2:4 w8a8+mask w4a8-g32+mask
w9a9 float32 float64 bfloat16 float16 int8 uint8 int64 bool complex64 float8_e4m3fn quint8 strided nn Tensor
F32 F16 BF16 I8 U8 I64 BOOL F8_E4M3 F4 C64
none relu gelu gelu_tanh silu tanh eager sdpa flex_attention flash_attention_2 pre post into modules transformers all
kdnative.nn.Linear kdnative.nn.Embedding kdnative.nn.Encoder kdnative.nn.EncoderLayer kdnative.nn.TransformerEncoder
kdnative.nn.MultiheadAttention kdnative.quantize.FakeQuantLinear kdnative.nn.PackedEncoder kdnative.convert_
torch.nn.Linear torch.nn.Sequential torch.nn.ModuleList torch.nn.ModuleDict torch.nn.ParameterList torch.nn.Embedding
torch.nn.LayerNorm torch.nn.LSTM torch.nn.Transformer torch.nn.TransformerEncoder torch.nn.MultiheadAttention
torch.nn.Conv2d torch.nn.DataParallel torch.nn.Module torch.nn.Parameter torch.nn.Upsample torch.nn.Bilinear
torch.load torch.hub.load builtins.eval builtins.exec os.system subprocess.Popen pickle.loads
BertModel BertForSequenceClassification BertConfig bert UperNetForSemanticSegmentation upernet DetrModel detr AutoModel
AutoBackbone TimmBackbone pipeline PreTrainedModel RagModel EncoderDecoderModel
evil-org/evil-kernel kernels-community/flash-attn2 hub:evil-org/evil evil.EvilModel evil-org/evil--evil.EvilModel
""".split()

_CODE = [
    f"__import__('{CANARY}')",
    f"!!python/object/apply:__import__ [{CANARY}]",
    f"!!python/name:{CANARY}.x",
    f"${{{CANARY}}}",
    f"$(python -c 'import {CANARY}')",
    "file:///etc/passwd",
    "https://huggingface.co/evil-org/evil",
]

_PATHS = f"../{OUTSIDE} ../../x /etc/passwd /dev/zero /proc/self/environ a/b . .. ~ kdnative.json C:\\x".split()

_ODD = [
    *("", " ", "\0", "a\0b", "\n", "\r\n", "\ud800", "\udfff\ud800", "\x1b]0;title\x07", "\u202e", "é", "𝔘", "\ufeff"),
    *("x" * 10_000, "a" * 64, "0" * 64, "9" * 5000, "%s%n", "{0}", "{x.__class__}", "(a+)+$", "[0-9]+", "*", "**", "["),
    *("null", "true", "NaN", "-1", "0x10", "1e999", "1_000", "buffer:", "buffer:x", "0.weight", ".", "a..b", "weight"),
]

TEXTS = [*_NAMES, *_CODE, *_PATHS, *_ODD]

KEYS = """
class config file files bytes sha256 tensors aliases modules transformers attributes rebuild generation frozen format
plain why shape dtype scheme bias in_features out_features num_embeddings embedding_dim padding_idx activation heads
head_dim ffn eps scaling window rope_theta layers hidden_size vocab_size max_positions token_types relative_buckets norm
gated pooler length model_type auto_map backbone backbone_config backbone_kwargs use_timm_backbone
use_pretrained_backbone trust_remote_code _name_or_path attn_implementation _attn_implementation quantization_config
torch_dtype architectures custom_pipelines device __class__ __dict__ __init__ __reduce__ forward weight qweight scale
zero group_scale training packed
""".split()
