"""From images to a network of integers."""

import pytest
import torch
from torch import nn

from kdnative.cnn import run, trace
from kdnative.cnn.bias_correction import corrected, rounded_run
from kdnative.cnn.calibrating import NetworkCalibration, calibrate
from kdnative.cnn.spans import METHODS
from kdnative.formats.convnet.checks import check
from kdnative.nn import ConvNet
from tests.cnn.networks import depthwise, images, residual


def error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [depthwise, lambda: depthwise(nn.Hardswish), residual])
def test_integers_are_close_to_floats(make, method):
    model, x = make(), images(32)
    graph = trace(model, x)
    made = calibrate(graph, x.split(13), method)
    check(made)
    with torch.no_grad():
        wanted = model(x)
    native = ConvNet.from_graph(made)(x)
    assert error(native, wanted) < 0.08
    assert error(rounded_run(graph, made, x)[0], native) < 0.01  # but for ties in rounding


def test_neither_order_nor_cut_of_batches_plays_a_part():
    graph, x = trace(residual(), (1, 3, 17, 17)), images(24)
    options = {"correct_bias": False}
    first, second = calibrate(graph, [x], "mse", **options), calibrate(graph, x.flip(0).split(5), "mse", **options)
    for one, other in zip(first.nodes, second.nodes, strict=True):
        if one.out is not None:
            assert other.out.scale == pytest.approx(one.out.scale, rel=1e-5)
            assert other.out.zero_point == one.out.zero_point


def test_equalization_and_bias_correction_together_help_depthwise_networks():
    model, x, others = depthwise(nn.ReLU), images(64), images(64, seed=5)
    graph = trace(model, x)

    def error_on(some, **options):
        made = calibrate(graph, [x], "minmax", **options)
        with torch.no_grad():
            return error(rounded_run(graph, made, some)[0], model(some))

    for some in (x, others):
        both = error_on(some, equalize=True, correct_bias=True)
        assert both < 0.95 * error_on(some, equalize=False, correct_bias=False)
        assert both < 0.95 * error_on(some, equalize=True, correct_bias=False)


def test_corrected_biases_make_the_mean_error_of_every_convolution_small():
    model, x = depthwise(), images(64)
    graph = trace(model, x)
    folded = graph.fold()
    plain = calibrate(graph, [x], "minmax", equalize=False, correct_bias=False)
    better = corrected(graph, plain, x, folded)

    @torch.no_grad()
    def means(network):
        floats, rounded = {}, {}
        run(graph, x, tap=lambda n, where, v: floats.update({n: v.mean((0, 2, 3))}) if where == "out" else None)

        def see(node, where, value):
            if where == "out":
                rounded[node.name] = value.mean((0, 2, 3))
            return value

        rounded_run(graph, network, x, see)
        return {graph.nodes[n].name: float((rounded[graph.nodes[n].name] - v).abs().max()) for n, v in floats.items()}

    last = graph.nodes[graph.outputs[0]].name
    assert means(better)[last] < 1e-5 < 1e-3 < means(plain)[last]
    for name in plain.weights:
        assert torch.equal(plain.weights[name].q, better.weights[name].q)


def test_images_of_other_sizes():
    graph = trace(residual(), (1, 3, 17, 17))
    made = calibrate(graph, [images(8), images(8, 31), images(1, 2), torch.empty(0, 3, 17, 17)], "minmax")
    assert ConvNet.from_graph(made)(images(2, 23)).shape == (2, 11)


@pytest.mark.parametrize("size", [17, 31])
def test_batches_without_images_change_nothing(size):
    graph, x, none = trace(residual(), (1, 3, 17, 17)), images(16), torch.empty(0, 3, size, size)
    wanted, found = (calibrate(graph, batches) for batches in ([x], [none, x, none]))
    for name, weight in wanted.weights.items():
        assert torch.equal(found.weights[name].bias, weight.bias) and weight.bias.isfinite().all()
    assert found.nodes == wanted.nodes


def test_what_fits_one_size_takes_no_other():
    graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 15 * 15, 4)), (1, 3, 17, 17))
    assert graph.fixed
    with pytest.raises(ValueError, match="batch 1 of calibration: images of 19 x 19 pixels"):
        calibrate(graph, [images(4), images(4, 19)])


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "calibration holds no images"),
        ([torch.empty(0, 3, 17, 17)], "calibration holds no images"),
        ([images(2), images(2).index_fill(3, torch.tensor([4]), torch.nan)], "batch 1 of calibration: images hold NaN"),
        ([images(2, channels=4)], r"batch 0 of calibration: images are \[N, 3, H, W\]"),
        ([images(2)[0]], r"these are \[3, 17, 17\]"),
        ([images(2) * 3e37], "batch 0 of calibration: the results of .* hold NaN or infinite values"),
    ],
)
def test_bad_images(batches, words):
    with pytest.raises(ValueError, match=words):
        calibrate(trace(residual(), (1, 3, 17, 17)), batches)


def test_unknown_methods():
    with pytest.raises(ValueError, match="method='entropy': ranges can be found with 'minmax', 'percentile', 'mse'"):
        NetworkCalibration(trace(residual(), (1, 3, 17, 17)), "entropy")
