"""Reads models of transformers, timm, torchvision, OpenCLIP and your own: where each family keeps its layers."""

from kdnative.models.families import TABLE as _TABLE  # noqa: F401  (makes them known)
from kdnative.models.family import BaseModel, Family, register, unregister

__all__ = ["BaseModel", "Family", "register", "unregister"]
