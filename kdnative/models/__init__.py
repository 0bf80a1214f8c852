"""Reads models of transformers, timm, torchvision and OpenCLIP: where each family keeps its layers and their parts."""
