"""What may be too large for the rounding behind the sums of a convolution, and what may not."""

from __future__ import annotations

import pytest
import torch

from kdnative.formats.convnet.graph import Conv, ConvWeight, Ending, Graph, Input, Range
from kdnative.formats.convnet.pack import pack
from kdnative.nn import ConvNet


def network(scale: float, ending: Ending, out: Range | None, bias: float = 0.0) -> Graph:
    """One weight of 127 steps on one channel: results from 0 to 255 * 127 * scale."""
    q = torch.full((1, 1, 1, 1), 127, dtype=torch.int8)
    weight = ConvWeight(q, torch.tensor([scale]), torch.tensor([bias]))
    nodes = (Input("x", (), Range(1.0, 0), 1), Conv("conv", (0,), out, 1, ending=ending))
    return Graph(nodes, (1,), (False,), {"conv": weight})


def test_real_results_are_as_large_as_fp32_is():
    net = ConvNet.from_graph(network(1e6, Ending(), None))
    assert net(torch.full((1, 1, 1, 1), 255.0)).item() == torch.tensor(255 * 127.0).mul(1e6).item() > 2**30
    with pytest.raises(ValueError, match="conv: results may become .*e.38, and fp32 ends at 3.4e.38"):
        pack(network(1e34, Ending(), None, 2e38))


@pytest.mark.parametrize(("step", "fits"), [(1.0, True), (1e-8, False)])
def test_codes_are_bounded(step, fits):
    refused(network(1.0, Ending(), Range(step, 0)), fits)


@pytest.mark.parametrize(("step", "fits"), [(1e-4, True), (1e-5, False)])
def test_hard_swish_is_bounded_behind_its_product(step, fits):
    """32,385 before it are few; divided by the step of the result they are 2^28 or 2^31."""
    refused(network(1.0, Ending("hard_swish"), Range(step, 0)), fits)


def refused(graph: Graph, fits: bool) -> None:
    if fits:
        pack(graph)
        return
    with pytest.raises(ValueError, match=r"conv: results may become .* which is more than kernels take \(2\^30\)"):
        pack(graph)
