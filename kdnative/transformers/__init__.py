"""kdnative for users of transformers: ``import kdnative.transformers`` registers saved students and conversion on load.

After the import

- ``AutoConfig``, ``AutoModel``, ``AutoModelFor...``, ``AutoTokenizer``, ``AutoImageProcessor`` and ``pipeline`` read a
  folder that :func:`kdnative.save`, ``save_pretrained`` of a native model or ``kdnative run`` has written,
- ``from_pretrained(model, quantization_config=KDNativeConfig("w8a8"))`` converts a float model while it is loaded.

:class:`DistillationTrainer` is transformers' ``Trainer`` with a teacher.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import kdnative
from kdnative.checkpoint import hostile
from kdnative.checkpoint.hub_files import MODEL_TYPE
from kdnative.nn import ImageInput
from kdnative.nn.hf_config import settings_of
from kdnative.nn.saving import is_pretrained_model

__all__ = [
    "DistillationTrainer",
    "KDNativeConfig",
    "StudentConfig",
    "StudentForImageClassification",
    "StudentImageProcessor",
]

_FILES = ["kdnative*", "*.json", "*.txt", "*.model", "README.md", "*/config.json"]
_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_IGNORED = {
    "adapter_kwargs",
    "attn_implementation",
    "low_cpu_mem_usage",
    "proxies",
    "trust_remote_code",
    "weights_only",
}
_IGNORED |= {"use_safetensors", "_commit_hash", "_from_auto", "_from_pipeline", "torch_dtype", "dtype", "device_map"}


def __getattr__(name: str) -> Any:
    if name != "DistillationTrainer":
        raise AttributeError(f"module 'kdnative.transformers' has no attribute {name!r}")
    from kdnative.transformers.trainer import DistillationTrainer  # brings accelerate

    return DistillationTrainer


# -- a saved student ---------------------------------------------------------------------------------------------------


class StudentConfig(transformers.PretrainedConfig):
    """The configuration of a saved student: ``model_type`` "kdnative" in ``config.json``.

    ``from_dict`` gives that of the model which the student was, as a subclass: a ``BertConfig`` for a student of BERT.
    A convolutional network has a plain one with its labels.
    """

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The configuration in ``config.json``; ``kwargs`` change entries that it has.

        Raises:
            ValueError: the installed transformers does not know the model, or a value that no checkpoint may have.
        """
        base = config_dict.get("base_config")
        if base is None:
            config = cls(id2label={int(i): name for i, name in config_dict["id2label"].items()})
        else:
            hostile.check_config(base)
            kind = base["model_type"]
            if kind not in transformers.CONFIG_MAPPING:
                raise ValueError(
                    f"the student is a {kind}, which transformers {transformers.__version__} lacks: upgrade"
                )
            config = _config_class(transformers.CONFIG_MAPPING[kind]).from_dict(settings_of(base))
        config.architectures = config_dict.get("architectures")
        config.quantization_config = config_dict.get("quantization_config")
        config._name_or_path = kwargs.pop("name_or_path", "")
        used = {name for name in kwargs if hasattr(config, name)} - {"dtype", "torch_dtype"}  # left to `_load`
        for name in used:
            setattr(config, name, kwargs[name])
        unused = {name: value for name, value in kwargs.items() if name not in used}
        return (config, unused) if return_unused_kwargs else config


@functools.cache
def _config_class(base: type) -> Any:
    """A subclass of a configuration, by which auto classes know that the folder is ours."""
    cls = type(f"Student{base.__name__}", (base,), {"__module__": __name__, "student_of": base})
    for auto in _AUTO_CLASSES:
        if base in auto._model_mapping:
            auto.register(cls, _loader(auto, cls), exist_ok=True)
    return cls


def _loader(auto: Any, config_class: type) -> type:
    """What an auto class takes for the class of the model: its ``from_pretrained`` is :func:`_load`."""

    def from_pretrained(cls: type, folder: Any, *args: Any, **options: Any) -> Any:
        return _load(auto, folder, **options)

    def from_config(cls: type, config: Any, **options: Any) -> Any:
        raise ValueError("a student is made from its files: use from_pretrained, or from_config of the float model")

    body = {"from_pretrained": classmethod(from_pretrained), "_from_config": classmethod(from_config)}
    body |= {"__module__": __name__, "config_class": config_class}
    return type(f"Student{auto.__name__.removeprefix('Auto')}", (), body)


_AUTO_CLASSES: list[Any] = [
    auto
    for name, auto in vars(modeling_auto).items()
    if name.startswith("AutoModel") and isinstance(auto, type) and issubclass(auto, _BaseAutoModelClass)
]


def _load(
    auto: Any, name: Any, *, config: Any, subfolder: str = "", output_loading_info: bool = False, **options: Any
) -> Any:
    if options.pop("quantization_config", None) is not None:
        raise ValueError(f"{name} is a native student already: leave quantization_config out")
    if unknown := options.keys() - _IGNORED - {*_HUB}:
        raise TypeError(f"{name}: a native student takes no {', '.join(sorted(unknown))}: leave it out")
    model = kdnative.load(_folder(name, options) / subfolder)
    if type(config) is StudentConfig:
        model = StudentForImageClassification(config, model)
    else:
        model = _for_auto_class(model, auto, config, name)
        own = model.config
        if len(own.id2label) != len(config.id2label):
            raise ValueError(f"{name} has {len(own.id2label)} outputs, and {len(config.id2label)} labels were given")
        own.id2label, own.label2id, own._name_or_path = config.id2label, config.label2id, str(name)
    dtype, device = options.get("dtype") or options.get("torch_dtype"), options.get("device_map")
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype  # "auto": as saved
    device = device.get("") if isinstance(device, dict) else None if device == "auto" else device
    model = model if dtype is None else model.to(dtype)
    model = model if device is None else model.to(device)
    info: dict[str, list[str]] = {
        name: [] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    }
    return (model, info) if output_loading_info else model


def _folder(name: Any, options: dict[str, Any]) -> Path:
    """The folder itself, or a copy of a repository of the hub."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    given = {key: options[key] for key in _HUB if options.get(key) is not None}
    return Path(snapshot_download(str(name), allow_patterns=_FILES, **given))


def _for_auto_class(model: nn.Module, auto: Any, config: Any, name: Any) -> nn.Module:
    """The model that an auto class promises: its base for ``AutoModel``, else the one with that head."""
    if auto is transformers.AutoModel:
        return model.base_model if is_pretrained_model(model) else model
    classes = auto._model_mapping[type(config).student_of]
    if type(model) not in (classes if isinstance(classes, tuple) else (classes,)):
        own = (config.architectures or [type(model).__name__])[0]
        raise ValueError(
            f"{name} is a {own}, which {auto.__name__} does not load: use AutoModel, kdnative.load, or the auto class "
            f"of {own}"
        )
    return model


class StudentForImageClassification(transformers.PreTrainedModel):
    """A native convolutional network with the call of an image classifier of transformers.

    ``forward(pixel_values [N, C, H, W], labels [N] or None)`` gives ``loss`` (cross entropy, or None) and ``logits``,
    float32 [N, classes].
    """

    config_class = StudentConfig
    main_input_name = "pixel_values"
    _no_split_modules: list[str] = []

    def __init__(self, config: StudentConfig, network: nn.Module) -> None:
        super().__init__(config)
        self.network = network

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **options: Any) -> Any:
        logits = self.network(pixel_values)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return transformers.modeling_outputs.ImageClassifierOutput(loss=loss, logits=logits)

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """As of other native models: a checkpoint of kdnative."""
        kdnative.save(self.network, save_directory, beside=True)

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of pictures and logits; the weights are integers."""
        return torch.float32


class StudentImageProcessor(transformers.image_processing_utils.BaseImageProcessor):
    """The :class:`kdnative.nn.ImageInput` of a student as an image processor of transformers.

    ``processor(images)`` takes one picture or a list (Pillow, a path, or uint8 [H, W, C] in NumPy) and gives
    ``pixel_values``, float32 [N, C, H, W].
    """

    model_input_names = ["pixel_values"]

    def __init__(self, image_input: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_input = image_input

    def __call__(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> Any:
        return self.preprocess(images, return_tensors)

    def preprocess(self, images: Any, return_tensors: Any = None, **kwargs: Any) -> Any:
        from PIL import Image

        several = list(images) if isinstance(images, (list, tuple)) else [images]
        pictures = [
            Image.fromarray(i) if hasattr(i, "__array_interface__") and hasattr(i, "shape") else i for i in several
        ]
        pixels = ImageInput.from_json(self.image_input)(pictures)
        return transformers.BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)


# -- conversion while loading ------------------------------------------------------------------------------------------


@register_quantization_config(MODEL_TYPE)
class KDNativeConfig(QuantizationConfigMixin):
    """How ``from_pretrained(..., quantization_config=...)`` converts a float model, see :func:`kdnative.convert_`.

    Args:
        scheme: such as "w8a8", or ``{pattern: scheme}``.
        keep: patterns of modules that stay in float.
        embeddings: 8, or None for embedding tables in float.
        method: of rounding without calibration: "rtn", "hqq"; None takes the default of the scheme.

    Raises:
        ValueError: there is no such scheme.
    """

    def __init__(
        self,
        scheme: str | dict[str, Any] = "w8a8",
        keep: Any = (),
        embeddings: int | None = 8,
        method: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.quant_method = MODEL_TYPE
        self.scheme, self.keep, self.embeddings, self.method = scheme, list(keep), embeddings, method
        for one in [scheme] if isinstance(scheme, str) else scheme.values():
            if one is not None:
                kdnative.Scheme.parse(one)


@register_quantizer(MODEL_TYPE)
class _Quantizer(HfQuantizer):
    """Converts when transformers has loaded the float weights."""

    requires_calibration = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        if self.pre_quantized:
            raise ValueError(
                "this folder holds a native student, which its own class can't load: use an auto class, such as "
                "AutoModelForSequenceClassification, or kdnative.load"
            )

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None: ...

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None: ...

    def preprocess_model(self, model: Any, **kwargs: Any) -> None:
        """Nothing: the model is loaded as a float one."""

    def postprocess_model(self, model: Any, **kwargs: Any) -> Any:
        """Convert. ``is_quantized`` stays False, which Trainer would refuse even to evaluate."""
        settings = self.quantization_config
        options = {} if settings.method is None else {"method": settings.method}
        kdnative.convert_(model, settings.scheme, keep=tuple(settings.keep), embeddings=settings.embeddings, **options)
        model.config.quantization_config = settings
        return model

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False


def _register() -> None:
    transformers.AutoConfig.register(MODEL_TYPE, StudentConfig)
    transformers.AutoModelForImageClassification.register(
        StudentConfig, _loader(transformers.AutoModelForImageClassification, StudentConfig)
    )
    names = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    names[MODEL_TYPE] = StudentForImageClassification.__name__  # pipelines look the name of the class up here
    if int(transformers.__version__.partition(".")[0]) < 5:
        transformers.AutoImageProcessor.register(StudentConfig, slow_image_processor_class=StudentImageProcessor)
    else:
        both = dict.fromkeys(("pil", "torchvision"), StudentImageProcessor)
        transformers.AutoImageProcessor.register(StudentConfig, image_processor_classes=both)


_register()
