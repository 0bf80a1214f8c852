"""Linears are traced for a GPU that is not there: one graph, and the shapes, dtypes and devices of what it gives."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from kdnative.ops.backends.cuda import CUDA
from tests.formats.gpu.test_layouts import moved
from tests.gpu.host_cases import KERNELS, Case

DEVICE = torch.device("cuda:1")


def _backend(name):
    if name == "cuda":
        return CUDA
    pytest.importorskip("triton", reason="Triton is not installed (the extra triton)")
    from kdnative.ops.backends.triton.backend import TRITON

    return TRITON


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("scheme", KERNELS)
def test_a_linear_is_one_graph(backend, scheme):
    backend, shape = _backend(backend), (70, 256)
    if not backend.has_kernels(Case(scheme, shape, (1,)).linear().scheme):
        pytest.skip(f"{backend.name} has no kernels of {scheme}")
    module = moved(Case(scheme, shape, (1,), activation="relu").linear(), backend)
    graphs = []

    def seen(graph, inputs):
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    with FakeTensorMode(), torch.no_grad():
        module.packed = torch.empty(module.packed.shape, dtype=torch.uint8, device=DEVICE)
        compiled = torch.compile(module, backend=seen, fullgraph=True)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            y = compiled(torch.empty(2, 3, 256, dtype=dtype, device=DEVICE))
            assert (y.shape, y.dtype, y.device) == ((2, 3, 70), dtype, DEVICE)
    calls = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    assert sum("kdnative" in call for call in calls) == 3, calls
