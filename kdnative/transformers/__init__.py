"""kdnative for users of transformers: ``import kdnative.transformers`` registers saved students and conversion on load.

After the import

- ``AutoConfig``, ``AutoModel``, ``AutoModelFor...``, ``AutoTokenizer``, ``AutoImageProcessor`` and ``pipeline`` read a
  folder that :func:`kdnative.save`, ``save_pretrained`` of a native model or ``kdnative run`` has written,
- ``from_pretrained(model, quantization_config=KDNativeConfig("w8a8"))`` converts a float model while it is loaded.

:class:`DistillationTrainer` is transformers' ``Trainer`` with a teacher.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

import kdnative
from kdnative.checkpoint.auto_classes import StudentConfig, load_folder, register
from kdnative.checkpoint.hub_files import MODEL_TYPE
from kdnative.nn import ImageInput

__all__ = [
    "DistillationTrainer",
    "KDNativeConfig",
    "StudentConfig",
    "StudentForImageClassification",
    "StudentImageProcessor",
]


def __getattr__(name: str) -> Any:
    if name != "DistillationTrainer":
        raise AttributeError(f"module 'kdnative.transformers' has no attribute {name!r}")
    from kdnative.transformers.trainer import DistillationTrainer  # brings accelerate

    return DistillationTrainer


# -- pictures ----------------------------------------------------------------------------------------------------------


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

    @classmethod
    def from_pretrained(cls, folder: Any, *args: Any, config: Any = None, **options: Any) -> Any:
        """As of other native students: :func:`kdnative.load`."""
        config = config or StudentConfig.from_pretrained(folder)
        found = load_folder(cls, folder, config=config, **options)
        return (cls(config, found[0]), found[1]) if isinstance(found, tuple) else cls(config, found)

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


register()
transformers.AutoModelForImageClassification.register(StudentConfig, StudentForImageClassification, exist_ok=True)
# Pipelines look the name of the class up here.
modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[MODEL_TYPE] = StudentForImageClassification.__name__
if int(transformers.__version__.partition(".")[0]) < 5:
    transformers.AutoImageProcessor.register(StudentConfig, slow_image_processor_class=StudentImageProcessor)
else:
    _BOTH = dict.fromkeys(("pil", "torchvision"), StudentImageProcessor)
    transformers.AutoImageProcessor.register(StudentConfig, image_processor_classes=_BOTH)
