"""Descriptions that claim sizes which nothing bears out, or values of the wrong kind: ``name: (kind, change)``.

Each vouches for itself, as anybody's can. None may allocate, loop or crash because of what it says.
"""

HUGE, VAST = 60_000, 10**9


def native(manifest, kind):
    """The configuration of the first native module of that class."""
    return next(e["config"] for e in manifest["modules"].values() if e["class"] == f"kdnative.nn.{kind}")


def replaced(name, entry):
    return lambda manifest: manifest["modules"].update({name: entry})


def of_encoder(**changes):
    return lambda manifest: native(manifest, "Encoder").update(changes)


def of_layers(**changes):
    def change(manifest):
        for layer in native(manifest, "Encoder")["layers"]:
            layer.update(changes)

    return change


def of_config(**changes):
    return lambda manifest: manifest["transformers"]["config"].update(changes)


def linear(**changes):
    entry = {"in_features": 64, "out_features": 64, "scheme": "w8a8", "bias": True, "activation": "none"}
    return replaced("0", {"class": "kdnative.nn.Linear", "config": {**entry, **changes}})


def many_layers(manifest):
    config = native(manifest, "Encoder")
    config["layers"] = config["layers"] * 50_000


def many_modules(manifest):
    relu = {"class": "torch.nn.ReLU", "config": {"inplace": False}}
    manifest["modules"].update({f"x{number}": relu for number in range(150_000)})


def many_tensors(manifest):
    manifest["weights"]["tensors"].update({f"x{n}": {"shape": [1], "dtype": "int8"} for n in range(150_000)})


def below_an_encoder(manifest):
    """Entries below one that takes them all: finding where each belongs must not look at every other."""
    relu = {"class": "torch.nn.ReLU", "config": {"inplace": False}}
    manifest["modules"].update({f"m{number}": relu for number in range(900)})
    entry = {"shape": [1], "dtype": "int8"}
    manifest["weights"]["tensors"].update({f"layers.0.x{number}.y": entry for number in range(40_000)})


def of_conv(**changes):
    return lambda manifest: native(manifest, "ConvNet")["graph"]["nodes"][1].update(changes)


def many_pools(manifest):
    nodes = native(manifest, "ConvNet")["graph"]["nodes"]
    pool = {"node": "pool", "inputs": [1], "out": nodes[1]["out"], "channels": 8}
    nodes += [{**pool, "name": f"pool{number}"} for number in range(20_000)]


def doubled_channels(manifest):
    nodes = native(manifest, "ConvNet")["graph"]["nodes"]
    for step in range(60):
        last, channels = len(nodes) - 1 if step else 1, 8 << (step + 1)
        nodes.append({**nodes[1], "node": "concat", "name": f"twice{step}", "inputs": [last] * 2, "channels": channels})
        for key in ("kernel", "ending"):
            nodes[-1].pop(key, None)


def embedding(**changes):
    entry = {"num_embeddings": 20, "embedding_dim": 32, "padding_idx": 0, "bits": 8, "dtype": "float32"}
    return replaced("0", {"class": "kdnative.nn.Embedding", "config": {**entry, **changes}})


def layer(kind, **config):
    return replaced("1", {"class": f"torch.nn.{kind}", "config": config})


def alias(**aliases):
    return lambda manifest: manifest["weights"]["aliases"].update(aliases)


def attributes(name, **values):
    return lambda manifest: manifest.update(attributes={name: values})


def top(**changes):
    return lambda manifest: manifest.update(changes)


SIZES = {
    "a linear of 3.6 GB": ("w8a16", linear(in_features=HUGE, out_features=HUGE)),
    "a 4-bit linear": ("w4a16", linear(in_features=64_000, out_features=64_000, scheme="w4a16-g32")),
    "a table": ("w8a8", embedding(num_embeddings=2 * VAST, embedding_dim=1)),
    "a float linear elsewhere": ("w8a8", layer("Linear", in_features=HUGE, out_features=HUGE, bias=True, device="cpu")),
    "a float linear": ("w8a8", layer("Linear", in_features=10 * HUGE, out_features=10 * HUGE, bias=True)),
    "layers of an LSTM": ("w8a8", layer("LSTM", input_size=64, hidden_size=64, num_layers=VAST)),
    "layers of a transformer": ("w8a8", layer("Transformer", d_model=64, nhead=1, num_encoder_layers=VAST)),
    "sizes of a transformer": ("w8a8", layer("TransformerEncoderLayer", d_model=VAST, nhead=1)),
    "a vocabulary": ("bert", of_encoder(vocab_size=VAST)),
    "a feed-forward network": ("bert", of_layers(ffn=VAST // 10)),
    "a network that overflows": ("bert", of_layers(ffn=2**31 - 32)),
    "heads": ("bert", of_layers(heads=VAST)),
    "layers of an encoder": ("bert", many_layers),
    "biases by distance": ("mpnet", of_encoder(max_positions=VAST, position_table=False)),
    "rotary positions": ("modernbert", of_encoder(max_positions=3 * VAST // 10)),
    "layers of a configuration": ("bert-head", of_config(num_hidden_layers=VAST)),
    "twenty thousand layers of a configuration": ("bert-head", of_config(num_hidden_layers=20_000)),
    "a vocabulary of a configuration": ("bert-not-fused", of_config(vocab_size=VAST)),
    "a width of a configuration": ("llama", of_config(hidden_size=2**30)),
    "layers of the configuration of a decoder": ("llama", of_config(num_hidden_layers=10**6)),
    "an attention": ("attention", lambda m: m["modules"][""]["config"].update(embed_dim=HUGE * 2)),
    "channels of a convolution": ("convnet", of_conv(channels=2**20)),
    "a kernel of a convolution": ("convnet", of_conv(kernel=[30_000, 30_000])),
    "nodes without tensors": ("convnet", many_pools),
    "channels that double sixty times": ("convnet", doubled_channels),
    "modules": ("w8a8", many_modules),
    "tensors": ("w8a8", many_tensors),
    "parts of an encoder": ("bert", below_an_encoder),
    "a file": ("w8a8", lambda m: m["weights"].update(bytes=2**60)),
    "a tensor": ("w8a8", lambda m: m["weights"]["tensors"]["3.weight"].update(shape=[2**61, 2**61])),
    "a tensor of many dimensions": ("w8a8", lambda m: m["weights"]["tensors"]["3.weight"].update(shape=[1] * 10**6)),
}

KINDS = {
    "an alias that is a list": ("w8a8", alias(a=["x"])),
    "an alias of an alias": ("w8a8", alias(a="1.qweight", b="a")),
    "an alias in place of a tensor": ("w8a8", alias(**{"3.weight": "3.bias"})),
    "an alias of itself": ("w8a8", alias(**{"3.weight": "3.weight"})),
    "frozen lists": ("w8a8", top(frozen=[["x"]])),
    "generation of a number": ("w8a8", top(generation={"": 3})),
    "plain numbers": ("w8a8", top(plain=[3])),
    "a dtype that is no dtype": ("transformer-encoder", lambda m: m["modules"][""]["config"].update(dtype="nn")),
    "a root without configuration": ("transformer-encoder", lambda m: m["modules"][""].pop("config")),
    "a node that is code": ("convnet", of_conv(node="eval")),
    "an activation that is code": (
        "convnet",
        of_conv(ending={"activation": "__import__", "parameters": [], "before": None}),
    ),
    "a range of nothing": ("convnet", of_conv(out=[0.0, 0])),
    "an image input that is none": ("convnet", top(image_input={"size": 3})),
    "an interpolation that is code": ("convnet", lambda m: m["image_input"].update(interpolation="__class__")),
    "no root": ("w8a8", lambda m: m["modules"].pop("")),
    "a module in none": ("w8a8", replaced("9.9.9", {"class": "torch.nn.ReLU", "config": {"inplace": False}})),
    "a list without a length": ("bert-head", replaced("", {"class": "torch.nn.ModuleList"})),
    "a file elsewhere": ("w8a8", lambda m: m["weights"].update(file="../kdnative-0123456789abcdef.safetensors")),
    "files elsewhere": ("w8a8", top(files={"../x": "0" * 64})),
    "a list as configuration": ("w8a8", replaced("1", {"class": "kdnative.nn.Linear", "config": []})),
    "a class that is none": ("w8a8", layer("modules.module._global_backward_hooks")),
    "a parameter for a layer": ("w8a8", layer("Parameter")),
    "parallel modules": ("w8a8", layer("DataParallel", module="os")),
    "a number of a layer": ("vit", attributes("embeddings.patch_embeddings.projection", groups=0)),
    "a private number": (
        "bert-not-fused",
        attributes("bert.encoder.layer.0.attention.self.query", _activation_code=99),
    ),
    "a mode": ("bert-head", attributes("", training=True)),
    "a name that is not there": ("bert-head", attributes("nowhere", x=1)),
    **{
        f"an encoder's {name} of {value!r}": (kind, change(**{name: value}))
        for kind, change, name, value in (
            ("bert", of_encoder, "eps", "x"),
            ("bert", of_encoder, "eps", float("nan")),
            ("bert", of_encoder, "norm", 3),
            ("bert", of_encoder, "token_types", -1),
            ("bert", of_encoder, "padding_id", 1.5),
            ("bert", of_encoder, "activation", "os.system"),
            ("bert", of_encoder, "output", "import_utils"),
            ("bert", of_encoder, "dtype", "float8"),
            ("bert", of_encoder, "pooler", "w9a9"),
            ("bert", of_encoder, "hidden_size", True),
            ("bert", of_encoder, "layers", {}),
            ("bert", of_encoder, "layers", [3]),
            ("bert", of_encoder, "more", 3),
            ("bert", of_layers, "scaling", None),
            ("bert", of_layers, "scaling", float("inf")),
            ("bert", of_layers, "ffn", 0),
            ("bert", of_layers, "qkv", 3),
            ("bert", of_layers, "qkv", "w8a16"),
            ("bert", of_layers, "window", -1),
            ("modernbert", of_layers, "rope_theta", -1.5),
            ("modernbert", of_layers, "head_dim", 15),
            ("mpnet", of_encoder, "relative_buckets", 5),
        )
    },
    **{
        f"a linear's {name} of {value!r}": ("w8a16", linear(**{name: value}))
        for name, value in (
            ("in_features", -64),
            ("in_features", 64.0),
            ("out_features", 2**40),
            ("scheme", ["w8a8"]),
            ("scheme", "w4a8-g128"),
            ("activation", None),
            ("bias", 1),
            ("dtype", "int8"),
        )
    },
    **{
        f"a table's {name} of {value!r}": ("w8a8", embedding(**{name: value}))
        for name, value in (("bits", 4), ("padding_idx", 99), ("embedding_dim", None), ("dtype", "bool"))
    },
}
