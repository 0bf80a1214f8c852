"""Reads models of transformers, timm, torchvision, OpenCLIP and your own: where each family keeps its layers."""

from kdnative.models.families import TABLE as _TABLE  # noqa: F401  (makes them known)
from kdnative.models.family import BaseModel, Family, register, unregister
from kdnative.models.stacks import hidden_size, hidden_states, layers_of

__all__ = ["BaseModel", "Family", "hidden_size", "hidden_states", "layers_of", "register", "unregister"]
