"""An application for gunicorn in tests/test_fork.py: loads $KDNATIVE_TEST_MODEL once, then answers GET /SEED."""

from __future__ import annotations

import hashlib
import os

import torch

import kdnative

torch.set_num_threads(2)
model = kdnative.load(os.environ["KDNATIVE_TEST_MODEL"])


def answer(seed: int) -> str:
    """A digest of the output for that seed."""
    x = torch.randn(64, 512, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return hashlib.sha256(model(x).numpy().tobytes()).hexdigest()


def app(environ, start_response):
    text = f"{os.getpid()} {torch.get_num_threads()} {answer(int(environ['PATH_INFO'][1:]))}"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]
