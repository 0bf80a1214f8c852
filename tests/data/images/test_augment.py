"""Batches of pictures, their changes, and what they suffer from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from kdnative.data import Batches
from kdnative.data.images import (
    CORRUPTIONS,
    Augmentation,
    AugmentedBatches,
    CorruptedDataset,
    ImageDataset,
    MixedBatch,
    Preprocessing,
    from_pictures,
)
from kdnative.data.images.changes import OPERATIONS, crop, erase, rand_augment
from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.mixed import MixedLabelLoss
from tests.data.images.folders import CLASSES, picture

ALL = Augmentation(crop=0.3, flip=0.5, operations=2, erase=0.3, mixup=0.4)


@pytest.fixture(scope="module")
def data() -> ImageDataset:
    pairs = [(picture(CLASSES[i % 3], i), i % 3) for i in range(17)]
    return ImageDataset(from_pictures(pairs, CLASSES, side=20), Preprocessing(20, (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)))


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_a_batch_is_normalised_with_its_channels_last(data):
    batch = data.batch([3, 0])
    x = batch.inputs["x"]
    assert x.shape == (2, 3, 20, 20) and x.is_contiguous(memory_format=torch.channels_last)
    wanted = (picture("cross", 3).astype(np.float64) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    assert np.allclose(x[0].permute(1, 2, 0).numpy(), wanted, atol=1e-5)
    assert batch.labels.tolist() == [0, 0] and batch.index.tolist() == [3, 0]


def test_a_smaller_size_is_the_mean_of_pixels(data):
    half = ImageDataset(data.source, Preprocessing(10, (0, 0, 0), (1, 1, 1)))
    x = half.batch([5]).inputs["x"][0] * 255
    assert x.shape == (3, 10, 10) and half.fingerprint != data.fingerprint
    inside = picture(CLASSES[2], 5).astype(np.float64)
    assert abs(float(x.mean()) - inside.mean()) < 1


def test_changes_depend_on_seed_epoch_and_number_alone(data):
    """Whatever batch a picture is in, and wherever an epoch begins."""
    plain = Augmentation(crop=0.3, operations=2, erase=0.5)
    small, large = (AugmentedBatches(Batches(data, size, shuffle=True, seed=1), plain, 7) for size in (3, 8))

    def pictures(batches, epoch):
        return {int(i): x for b in batches.epoch(epoch) for i, x in zip(b.index, b.inputs["x"], strict=True)}

    one, two, next_epoch = pictures(small, 0), pictures(large, 0), pictures(small, 1)
    assert all(torch.equal(one[i], two[i]) for i in range(17))
    assert sum(torch.equal(one[i], next_epoch[i]) for i in range(17)) < 3
    rest = list(AugmentedBatches(Batches(data, 3, shuffle=True, seed=1), ALL, 7).epoch(2, start=3))
    whole = list(AugmentedBatches(Batches(data, 3, shuffle=True, seed=1), ALL, 7).epoch(2))[3:]
    assert all(torch.equal(a.inputs["x"], b.inputs["x"]) for a, b in zip(rest, whole, strict=True))


def test_a_lone_picture_joins_the_batch_before_it(data):
    for size in (1, 2, 4, 8, 16, 17):
        batches = AugmentedBatches(Batches(data, size, shuffle=True, seed=3), Augmentation())
        sizes = [len(batch) for batch in batches.epoch(0)]
        assert len(sizes) == len(batches) and sum(sizes) == 17
        assert min(sizes) > 1 or size == 1


def test_crops_keep_their_share_and_their_size():
    side = 40
    ramp = np.stack([np.repeat(np.arange(side, dtype=np.uint8)[None], side, 0)] * 3, -1)
    for seed in range(30):
        found = crop(ramp, 0.5, generator(seed))
        assert found.shape == ramp.shape and found.dtype == np.uint8
        width = int(found.max()) - int(found.min())
        assert width >= side * (0.5 * 3 / 4) ** 0.5 - 3  # of half the area, at the narrowest ratio


def test_an_erased_rectangle_is_new_and_the_rest_is_as_it_was():
    white = np.full((30, 30, 3), 255, np.uint8)
    share = [(erase(white, generator(seed)) != 255).any(-1).mean() for seed in range(40)]
    assert min(share) > 0.01 and max(share) <= 0.4


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_operation_keeps_shape_and_does_nothing_at_level_0(name):
    from PIL import Image

    found = Image.fromarray(picture("disc", 1))
    strong = np.asarray(OPERATIONS[name](found, 1.0, 1))
    assert strong.shape == (20, 20, 3) and strong.dtype == np.uint8
    weak = np.asarray(OPERATIONS[name](found, 0.0, 1))
    if name not in ("autocontrast", "equalize"):  # they know no level
        assert np.array_equal(weak, np.asarray(found)) and (name == "identity" or not np.array_equal(strong, weak))


def test_rand_augment_draws_from_its_generator():
    one = rand_augment(picture("disc", 1), 2, 9, generator(5))
    assert np.array_equal(one, rand_augment(picture("disc", 1), 2, 9, generator(5)))


def test_mixup_adds_pictures_and_their_losses(data):
    batches = AugmentedBatches(Batches(data, 5, shuffle=True, seed=0), Augmentation(1.0, 0.0, mixup=1.0), 0)
    batch = next(iter(batches.epoch(0)))
    assert isinstance(batch, MixedBatch) and 0.5 <= batch.share <= 1
    plain = data.batch(batch.index.tolist()).inputs["x"]
    assert torch.allclose(batch.inputs["x"], batch.share * plain + (1 - batch.share) * plain.flip(0), atol=1e-5)
    logits = torch.randn(5, 3, dtype=torch.float64)
    found = MixedLabelLoss()(batch, Outputs(logits))
    target = batch.share * torch.eye(3)[batch.labels] + (1 - batch.share) * torch.eye(3)[batch.labels.flip(0)]
    assert float(found) == pytest.approx(float(-(target * logits.log_softmax(-1)).sum(-1).mean()))
    assert isinstance(batch.to("cpu"), MixedBatch)


def test_a_batch_that_is_not_mixed_has_the_plain_loss(data):
    batch, logits = data.batch([0, 1, 2]), torch.randn(3, 3)
    wanted = torch.nn.functional.cross_entropy(logits, batch.labels)
    assert torch.equal(MixedLabelLoss()(batch, Outputs(logits)), wanted)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_corruptions_are_stronger_from_strength_to_strength_and_always_the_same(data, name):
    clean = data.batch(range(17)).inputs["x"]
    found = [CorruptedDataset(data, name, s).batch(range(17)).inputs["x"] for s in (1, 2, 3)]
    errors = [float((x - clean).square().mean()) for x in found]
    assert 0 < errors[0] < errors[1] < errors[2]
    assert torch.equal(found[0], CorruptedDataset(data, name, 1).batch(range(17)).inputs["x"])


def test_settings_that_are_none_are_refused():
    for options in ({"crop": 0.0}, {"crop": 1.1}, {"flip": -0.1}, {"magnitude": 11}, {"mixup": -1.0}):
        with pytest.raises(ValueError, match="crop within"):
            Augmentation(**options)
    with pytest.raises(ValueError, match="size=0"):
        Preprocessing(0)
