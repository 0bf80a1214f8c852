"""From plain to packed: :func:`convert_` decides, builds, and only then changes the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from kdnative.cnn.spans import METHODS, USUAL
from kdnative.convert.building import Built, build
from kdnative.convert.calibrated import calibrated, nothing_left
from kdnative.convert.deciding import decide
from kdnative.convert.network_training import check_trained, trained_networks
from kdnative.convert.networks import calibrated_networks, refuse_networks, wanting_ranges
from kdnative.convert.plan import Plan
from kdnative.convert.report import ConversionReport, report_rows
from kdnative.convert.rounded import check_rounded
from kdnative.convert.surroundings import Surroundings
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.nn.saving import set_save_pretrained
from kdnative.nn.tree import NATIVE, become, walk
from kdnative.patterns import Selection
from kdnative.quantize.calibrating import without_input_scales
from kdnative.quantize.calibration import Calibration
from kdnative.quantize.inputs import InputBatches
from kdnative.quantize.methods import Method

__all__ = ["apply", "convert_"]


def convert_(
    model: nn.Module,
    schemes: str | Scheme | Sequence[str | Scheme] | Mapping[str, Any] | None = None,
    *,
    keep: Iterable[str] = (),
    embeddings: int | None = 8,
    fuse: bool = True,
    clip_search: bool = False,
    rows: int = 32,
    weights: Mapping[str, QuantizedWeight] | None = None,
    calibration: Iterable[Any] | Calibration | None = None,
    method: str | Method | None = None,
    tokenizer: Any = None,
    gate: Any = None,
) -> ConversionReport:
    """Replace what can run on the integer kernels, in place, and put the model into eval mode.

    Encoders of Hugging Face transformers that the library knows (BERT, MiniLM and others, pruned or not) become one
    :class:`kdnative.nn.Encoder`, ``nn.TransformerEncoder`` or its layers a :class:`kdnative.nn.TransformerEncoder`, and
    layers of vision, speech and sequence-to-sequence encoders that it knows (of transformers, timm, torchvision and
    OpenCLIP) a :class:`kdnative.nn.EncoderLayer` each. With ``calibration``, networks of convolutions become one
    :class:`kdnative.nn.ConvNet`: the whole model if its forward can be followed, or else the largest of its modules
    that can be (``w8a8`` only; without calibration convolutions stay in float, as nobody knows the ranges of their
    maps). Everywhere else ``nn.Linear``, ``nn.MultiheadAttention``,
    ``kdnative.quantize.FakeQuantLinear``, ``nn.Embedding`` and the ``Conv1D`` of GPT-2 are replaced one by one. What
    remains stays, and the report says why. A FakeQuantLinear keeps the integer weights it was trained with. Layers that
    share a weight, as a language model's head does with its embedding, each get their own; only embeddings go on
    sharing one table. What `prepare_networks_` has prepared becomes the very network that was trained, without
    ``calibration``; convolutions outside of it stay in float.

    With a sparse scheme such as ``w8a8+4x1`` a layer with too few zeros for its device gets the dense form of the
    scheme, which computes the same and is faster then (:mod:`kdnative.convert.sparse_crossover`); fused encoders are
    dense too (``fuse=False`` converts their layers one by one). The report says so.

    A FakeQuantLinear that stays in float becomes an ``nn.Linear`` with the values of its integer weights.

    Layers of 4 and 2 bits want ``calibration``. Rounded to the nearest, 4 bits warn and 2 bits are refused, unless
    ``method="rtn"`` or ``clip_search`` says that this is meant.

    Models of transformers read their device and dtype from a parameter: where none would be left, the last linear stays
    in float, unless a pattern other than ``*`` asks for it.

    Args:
        model: float32, bfloat16 or float16, on the CPU or an NVIDIA GPU. Native linears are where their layers were; on
            a GPU nothing is fused.
        schemes: a scheme for all linears, or ``{pattern: scheme or None}``; the first pattern that matches a module's
            name, or the name of a module that contains it, wins. Patterns are globs, or regular expressions after
            ``re:``. Linears that no pattern matches stay in float. With a gate a list of schemes, from the fewest bits
            up, may stand for each. None: ``w8a8``, with a gate ``["w4a8-g64", "w8a8"]``.
        keep: patterns of modules that stay in float.
        embeddings: 8 for int8 tables, None to leave embeddings in float (a fused encoder needs 8).
        fuse: False converts known encoders and layers linear by linear too (those of torch stay, it reads their weights
            itself), so that they can still return attention weights.
            So does a scheme with float activations (``a16``): fused encoders compute with int8 activations only.
        clip_search: search the clipping range of weights (better at 4 and 2 bits, slower to convert).
        rows: rows of activations (batch * tokens) of a typical call, on which the gain of sparse kernels depends.
        weights: integer weights by the names of their layers, to be packed as they are; those of other layers are
            quantized. Each has the shape of its layer's weight, ``[N, K]``, and the bits and groups of its scheme.
        calibration: batches of the model's inputs (dicts of keyword arguments, tuples of arguments, or tensors), texts,
            or what :func:`kdnative.calibrate_` made of either: weights are chosen for the inputs that layers get there.
            128 texts are usual. A layer whose weight comes with input scales gets them in its scheme (``w8a8-is``).
            Layers with factors behind their linears (LayerScale) are not fused then. For images, 64 or more; in pairs
            of images [N, C, H, W] and labels [N], as a DataLoader gives them, labels are left out.
        method: how weights are chosen, a name or a ``Method`` of :mod:`kdnative.quantize.methods`. None: rounded to the
            nearest without calibration; with it, of each layer the usual method of its scheme ("smoothquant" for
            ``w8a8``, else "gptq"). "hqq" and "rtn" need no calibration. Of networks of convolutions, how ranges are
            found: "minmax", "percentile" (99.99) or "mse" (the least squared error; the usual one).
        tokenizer: of transformers, for texts, which are cut to 128 tokens here (`calibrate_` takes ``max_length=``).
        gate: a :class:`kdnative.Gate`: what the conversion may cost, and what happens where it costs more. It chooses
            among schemes of linear layers: models with several convolutions are refused, unless ``keep`` has these.

    Returns:
        The report; ``report.model is model``. A ``model`` that is itself an encoder or a single layer, such as a bare
        ``BertModel``, becomes the native module: it stays the same object and changes its class, so whatever holds it
        runs natively too. Keep a ``copy.deepcopy`` of a float model to compare with.

    Raises:
        ValueError: a weight is NaN or infinite; a pattern matches nothing; a pattern other than ``*`` asks for what
            can't be done (the text lists every case); ``weights`` do not fit; the model is on a device that has no
            kernels, or with a gate not on the CPU; calibration is missing (2 bits are not rounded to the nearest
            unasked), empty, of another model, or contradicts other arguments, see :func:`kdnative.calibrate_`; it is a
            Calibration, and the model has networks of convolutions; several schemes without a gate. The model is
            unchanged then.
        TypeError: the model is no module, or the gate no gate.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert_ takes a torch.nn.Module, not {type(model).__name__}")
    if embeddings not in (None, 8):
        raise ValueError(f"embeddings must be 8 or None, got {embeddings!r}")
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if gate is not None:
        if not callable(getattr(gate, "convert_", None)):
            raise TypeError(
                f"gate is a {type(gate).__name__}: give a kdnative.Gate, such as kdnative.Gate('agreement', "
                "max_drop=0.02, data=texts, tokenizer=tokenizer)"
            )
        if elsewhere := next((p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")), None):
            raise ValueError(f"a gate measures on the CPU, the model is on {elsewhere}: call model.cpu() first")
        report: ConversionReport = gate.convert_(
            model,
            *(() if schemes is None else (schemes,)),
            keep=keep,
            embeddings=embeddings,
            fuse=fuse,
            clip_search=clip_search,
            rows=rows,
            weights=weights,
            calibration=calibration,
            method=method,
            tokenizer=tokenizer,
        )
        return report
    schemes = "w8a8" if schemes is None else schemes
    for asked in schemes.values() if isinstance(schemes, Mapping) else [schemes]:
        if isinstance(asked, list | tuple):
            raise ValueError(
                f"schemes has {asked!r}, but only a gate can choose among several schemes: give one scheme, or gate="
            )
    calibrating = calibration is not None or method is not None
    if clip_search and calibrating:
        raise ValueError("clip_search=True is for rounding without data: with calibration data, give method='clip'")
    selection = Selection(schemes, keep, without_input_scales if calibrating else Scheme.parse)
    deciding = partial(decide, model, selection, embeddings=embeddings, fuse=fuse, values=True)
    networks = trained_networks(model, selection)
    plan = deciding(weights=weights, networks=networks)
    data: Iterable[Any] | InputBatches | Calibration | None = calibration
    if networks is not None:
        check_trained(plan, networks)
    wanted = wanting_ranges(plan, model) if fuse else ()
    if wanted and isinstance(calibration, Calibration):
        words = (
            "a Calibration holds weights of linear layers only, but a convolutional network needs ranges of "
            "feature maps"
        )
        refuse_networks(plan, model, f"{words}: give batches as calibration=")
    if wanted and calibration is not None and not isinstance(calibration, Calibration):
        plan.check(awaiting=wanted)
        data = batches = InputBatches(calibration, tokenizer)
        around = Surroundings.of(model, selection, embeddings, True, weights)
        networks = calibrated_networks(plan, around, batches, method if method in METHODS else USUAL)
        plan = deciding(weights=weights, networks=networks)
        method = None if method in METHODS else method
    plan.check()
    methods: dict[str, str] = {}
    whole = calibrating and networks is not None and nothing_left(plan, model, networks)
    if whole and method is not None and method not in METHODS:
        raise ValueError(
            f"method={method!r} is for linear layers, but all of them are part of convolutional networks: "
            "leave it out, or choose how ranges of feature maps are found, with "
            f"{', '.join(map(repr, METHODS))}"
        )
    if calibrating and not whole:
        made = calibrated(plan, model, data, method, tokenizer, weights or {})
        weights, methods = {**(weights or {}), **made}, {row.name: row.method for row in made.rows}
        plan = deciding(weights=weights, networks=networks)
        plan.check()
    elif not calibrating and not clip_search:
        check_rounded(plan, model, weights or {})
    built = build(plan, model, weights=weights, clip_search=clip_search, rows=rows)
    report = ConversionReport(model, report_rows(plan, built, dict(walk(model)), methods))
    apply(model, plan, built)
    return report


def apply(model: nn.Module, plan: Plan, built: Built) -> None:
    """Put what was built into its places, and the model into eval mode.

    Args:
        model: the one that ``built`` was made for.
        plan: what it was made by.
        built: from :func:`kdnative.convert.build`.

    Raises:
        ValueError: a module of the plan is no longer there; the model is unchanged then.
    """
    modules = dict(walk(model))
    for decision in plan.decisions:
        if type(modules.get(decision.name)).__name__ != decision.kind:
            raise ValueError(f"{decision.name!r} is no longer a {decision.kind}: make a new plan")
    replacements = {id(modules[name]): native for name, native in built.replacements.items()}
    for parent in (*modules.values(), *replacements.values()):
        for attribute, child in list(parent._modules.items()):
            if id(child) in replacements:
                setattr(parent, attribute, replacements[id(child)])
    if id(model) in replacements:
        become(model, replacements[id(model)])
    model.eval()
    set_save_pretrained(model, tuple(NATIVE.values()))
