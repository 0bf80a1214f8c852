"""Who computes tiles, for GPUs that are not here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kdnative.distill.tiled import choosing


def said(dtype=torch.bfloat16, is_cuda=True):
    return SimpleNamespace(hidden=SimpleNamespace(dtype=dtype, is_cuda=is_cuda, device="cuda:0"))


@pytest.mark.parametrize(
    ("student", "teachers", "options", "expected"),
    [
        (said(), [said()], {}, "triton"),
        (said(torch.float16), [said(torch.float16)], {}, "triton"),
        (said(), [said(torch.float16)], {}, "torch"),
        (said(torch.float32), [said(torch.float32)], {}, "torch"),
        (said(), [said(), said()], {}, "torch"),
        (said(is_cuda=False), [said(is_cuda=False)], {}, "torch"),
        (said(), [said()], {"capability": (7, 5)}, "torch"),
        (said(), [said()], {"installed": False}, "torch"),
        (said(), [said()], {"hip": "6.4"}, "torch"),
    ],
)
def test_who_computes(monkeypatch, student, teachers, options, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: options.get("capability", (8, 6)))
    monkeypatch.setattr(torch.version, "hip", options.get("hip"))
    monkeypatch.setattr(choosing, "installed", lambda name: name == "triton" and options.get("installed", True))
    monkeypatch.setattr(choosing, "triton_tiles", lambda: "triton")
    found = choosing.tiles_for(student, teachers)
    assert found == expected if expected == "triton" else found.whole
