"""Other libraries' ways to quantize the models of ``kdnative bench quality``, by the case of ours with the same bits.

Each gets the same float model, the same texts to calibrate with, and is measured on the same texts. What counts is what
their models answer, not how fast: torchao runs eagerly in fp32, OpenVINO with products in fp32, and with activations in
floating point where the case has them so. A peer that can't do a case raises, and its row says why.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from kdnative.bench.encoder_candidates import INPUTS, Positional
from kdnative.bench.encoder_models import apart
from kdnative.bench.quality_subjects import Inputs, Runs, Subject
from kdnative.bench.quality_ways import Cost, Way, counted
from kdnative.formats.scheme import Scheme

_OUTPUTS = {"embedder": "last_hidden_state", "classifier": "logits"}
_STEPS = 50  # of auto-round in each block, as its light recipe has them; 200 are usual


def peers(scheme: str, examples: int) -> list[Way]:
    """The peers of one of our schemes.

    Args:
        scheme: ours.
        examples: texts that calibrate those that want data.
    """
    found = Scheme.parse(scheme)
    return [*_torchao(found, examples), *_nncf(found, examples), *_autoround(found, examples)]


def _torchao(scheme: Scheme, examples: int) -> list[Way]:
    def way(name: str, config: Callable[[], Any]) -> Way:
        def make(subject: Subject, text: str, cost: Cost) -> Runs:
            from torchao.quantization import quantize_

            model = subject.copy()
            with counted(cost):
                quantize_(model, config())
            return model

        return Way(f"torchao {name}", make, ours=False, packages=("torchao",))

    def observed(name: str, config: Callable[[str], Any]) -> Way:
        def make(subject: Subject, text: str, cost: Cost) -> Runs:
            from torchao.quantization import quantize_

            model, data = subject.copy(), subject.calibration(examples, whole=True)
            cost.examples = examples
            with counted(cost):
                quantize_(model, config("prepare"))
                for inputs in data:
                    model(**inputs)
                quantize_(model, config("convert"))
            return model

        return Way(f"torchao {name}", make, ours=False, packages=("torchao",))

    def base(hqq: bool = False) -> Any:
        return _torchao_config(scheme, hqq)

    def awq(step: str) -> Any:
        from torchao.prototype.awq import AWQConfig

        return AWQConfig(base(), step=step)

    def gptq(step: str) -> Any:
        from torchao.prototype.gptq import GPTQConfig
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

        eight = scheme.weight_bits == 8
        weights = Int8WeightOnlyConfig() if eight else Int4WeightOnlyConfig(group_size=scheme.group_size)
        return GPTQConfig("observe" if step == "prepare" else step, weights)

    def smoothquant(step: str) -> Any:
        from torchao.prototype.smoothquant import SmoothQuantConfig

        return SmoothQuantConfig(base(), step=step)

    found = [way("rtn", base)]
    if scheme.weight_bits == 8 and scheme.activation_bits == 8:
        found.append(observed("smoothquant", smoothquant))
    if scheme.weight_bits < 8:
        found += [way("hqq", lambda: base(hqq=True)), observed("awq", awq)]
    if scheme.activation_bits == 16:
        found.append(observed("gptq", gptq))
    return found


def _torchao_config(scheme: Scheme, hqq: bool) -> Any:
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8DynamicActivationIntxWeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
    )
    from torchao.quantization.granularity import PerGroup
    from torchao.quantization.quantize_.workflows import IntxChooseQParamsAlgorithm as Algorithm

    floating = scheme.activation_bits == 16
    if scheme.weight_bits == 8:
        return Int8WeightOnlyConfig() if floating else Int8DynamicActivationInt8WeightConfig()
    dtype, groups = getattr(torch, f"int{scheme.weight_bits}"), PerGroup(scheme.group_size)
    how = {"intx_choose_qparams_algorithm": Algorithm.HQQ_SCALE_ONLY if hqq else Algorithm.AFFINE}
    if floating:
        return IntxWeightOnlyConfig(weight_dtype=dtype, granularity=groups, **how)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=dtype, weight_granularity=groups, **how)


def _nncf(scheme: Scheme, examples: int) -> list[Way]:
    def way(name: str, data: bool = False, slow: bool = False, **options: Any) -> Way:
        def make(subject: Subject, text: str, cost: Cost) -> Runs:
            import nncf

            model = openvino_model(subject)
            given = {"dataset": _one_by_one(subject, examples)} if data else {}
            cost.examples = examples if data else 0
            with counted(cost):
                model = nncf.compress_weights(model, **_weights(scheme), **given, **options)
            return openvino_runs(subject, model, scheme)

        return Way(f"nncf {name}", make, ours=False, packages=("nncf", "openvino"), slow=slow)

    def static(subject: Subject, text: str, cost: Cost) -> Runs:
        import nncf

        model, data = openvino_model(subject), _one_by_one(subject, examples)
        cost.examples = examples
        with counted(cost):
            model = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=examples)
        return openvino_runs(subject, model, scheme)

    found = [way("rtn")]
    if scheme.weight_bits == 8 and scheme.activation_bits == 8:
        note = "static ranges of activations"
        found.append(Way("nncf int8", static, ours=False, packages=("nncf", "openvino"), note=note))
    if scheme.weight_bits == 4:
        found.append(way("awq + scale estimation", data=True, awq=True, scale_estimation=True))
        if scheme.activation_bits == 16:  # its weights are the same with int8 activations
            found.append(way("gptq", data=True, slow=True, gptq=True))
    return found


def _weights(scheme: Scheme) -> dict[str, Any]:
    """How nncf is asked for the weights of a scheme."""
    import nncf

    mode = getattr(nncf.CompressWeightsMode, f"INT{scheme.weight_bits}_SYM")
    if scheme.weight_bits == 8:
        return {"mode": mode}
    return {"mode": mode, "ratio": 1.0, "group_size": scheme.group_size, "all_layers": True}


def _one_by_one(subject: Subject, examples: int) -> Any:
    """Texts without padding, of which nncf knows nothing."""
    import nncf

    return nncf.Dataset([{k: v.numpy() for k, v in one.items()} for one in subject.calibration(examples, batch=1)])


def openvino_model(subject: Subject) -> Any:
    """The float model for OpenVINO."""
    import openvino as ov

    given = subject.calibration(2)[0]
    example = {name: given[name] for name in INPUTS if name in given}  # tokenizers have another order
    wrapped = Positional(subject.model, _OUTPUTS[subject.task])
    with apart():
        model = ov.convert_model(wrapped, example_input=tuple(example.values()))
    for port, name in zip(model.inputs, example, strict=True):
        port.get_tensor().set_names({name})
    return model


def openvino_runs(subject: Subject, model: Any, scheme: Scheme) -> Runs:
    """A model of OpenVINO as one of torch is called."""
    import openvino as ov

    config: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if scheme.activation_bits == 16:  # otherwise activations are int8, in groups as OpenVINO has them
        config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    compiled = ov.Core().compile_model(model, "CPU", config)

    def run(**inputs: torch.Tensor) -> Any:
        found = compiled({name: value.numpy() for name, value in inputs.items()})[0]
        return SimpleNamespace(**{_OUTPUTS[subject.task]: torch.from_numpy(found.copy())})

    return run


def _autoround(scheme: Scheme, examples: int) -> list[Way]:
    if scheme.activation_bits != 16 or scheme.weight_bits == 8:  # at 8 bits there is nothing to tune
        return []

    def make(subject: Subject, text: str, cost: Cost) -> Runs:
        from auto_round import AutoRound

        model, data = subject.copy(), _same_length(subject, examples)
        length = data[0]["input_ids"].shape[1]
        cost.examples = examples
        with counted(cost):
            rounding = AutoRound(
                model,
                subject.tokenizer,
                scheme=f"W{scheme.weight_bits}A16",
                group_size=scheme.group_size or -1,
                sym=True,
                iters=_STEPS,
                nsamples=examples,
                seqlen=length,
                batch_size=8,
                dataset=data,
                device_map="cpu",
            )
            model, _ = rounding.quantize()
        return model.eval()

    note = f"{_STEPS} steps a block"
    return [Way("auto-round", make, ours=False, packages=("auto_round",), note=note, slow=True)]


def _same_length(subject: Subject, examples: int) -> list[Inputs]:
    """Texts one by one, padded to one length, as auto-round wants them."""
    (batch,) = subject.calibration(examples, whole=True)
    return [{name: value[i : i + 1] for name, value in batch.items()} for i in range(examples)]
