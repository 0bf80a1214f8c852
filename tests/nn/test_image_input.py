"""From pictures to batches: as torchvision does it, and cases worked by hand."""

import numpy
import pytest
import torch

from kdnative.nn import ImageInput

image = pytest.importorskip("PIL.Image")

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def picture(width, height, mode="RGB"):
    channels = {"RGB": 3, "RGBA": 4, "L": 1}[mode]
    values = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8).numpy()
    return image.fromarray(values if channels > 1 else values[..., 0], mode)


@pytest.mark.parametrize("size", [(300, 201), (201, 300), (256, 256), (40, 97)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_resize_and_crop_are_those_of_torchvision(size, interpolation):
    transforms = pytest.importorskip("torchvision.transforms")
    given = picture(*size)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    want = transforms.Compose(
        [
            transforms.Resize(64, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop((56, 49)),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )(given)
    got = ImageInput((56, 49), shorter=64, mean=mean, std=std, interpolation=interpolation)(given)
    assert got.shape == (1, 3, 56, 49) and got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got[0], want, rtol=0, atol=1e-6)


def test_fits():
    given = image.new("RGB", (4, 2), "red")
    given.paste("blue", (1, 0, 3, 2))  # the middle square
    red, blue, white = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0))

    def pixels(fit, size):
        x = ImageInput(size, fit=fit, interpolation="nearest", **PLAIN)(given)[0]
        return [[tuple(x[:, i, j].tolist()) for j in range(size[1])] for i in range(size[0])]

    assert pixels("crop", (2, 2)) == [[blue, blue], [blue, blue]]
    assert pixels("stretch", (2, 4)) == [[red, blue, blue, red]] * 2
    assert pixels("pad", (4, 4)) == [[white] * 4, [red, blue, blue, red], [red, blue, blue, red], [white] * 4]


def test_transparent_pixels_are_white_and_grey_has_one_channel():
    given = image.new("RGBA", (1, 1), (255, 0, 0, 0))
    assert ImageInput((1, 1), **PLAIN)(given).flatten().tolist() == [1.0, 1.0, 1.0]
    grey = ImageInput((2, 3), mean=(0.5,), std=(0.25,))(image.new("L", (3, 2), 255))
    assert grey.shape == (1, 1, 2, 3) and grey.unique().tolist() == [2.0]


@pytest.mark.parametrize(("value", "code"), [(0, 0), (128, 0), (129, 1), (257 * 100, 100), (65535, 255)])
@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_sixteen_bits_are_scaled(tmp_path, value, code, kind):
    given = image.fromarray(numpy.full((2, 2), value, kind))
    assert given.mode.startswith("I;16")
    given.save(tmp_path / "grey.tif")
    for one in (given, tmp_path / "grey.tif"):
        assert (ImageInput((2, 2)).pixels(one) == code).all()
        assert ImageInput((2, 2), mean=(0.0,), std=(1.0,)).pixels(one).tolist() == [[[code]] * 2] * 2


@pytest.mark.parametrize(("mode", "words"), [("I", "integers of 32 bits"), ("F", "floats of 32 bits")])
def test_pixels_without_a_known_white_are_refused(tmp_path, mode, words):
    given = image.new(mode, (2, 2), 1000)
    given.save(tmp_path / "grey.tif")
    for one in (given, tmp_path / "grey.tif"):
        with pytest.raises(ValueError, match=words):
            ImageInput((2, 2))(one)


def test_numbers_may_be_integers():
    assert ImageInput((1, 1), mean=(10**30,) * 3, std=(1, 1, 1))(picture(1, 1)).isfinite().all()


def test_one_number_is_a_square():
    assert ImageInput(5) == ImageInput((5, 5)) and ImageInput(5).size == (5, 5)


@pytest.mark.parametrize("given", [{"mean": 0.5}, {"std": None}, {"classes": "dog"}, {"size": 2.5}, {"size": True}])
def test_one_value_where_several_belong(given):
    with pytest.raises(ValueError, match=f"{next(iter(given))} must be a tuple or a list"):
        ImageInput(**given)


def test_files_upright_and_several_at_once(tmp_path):
    given = image.new("RGB", (2, 1), "red")
    given.putpixel((1, 0), (0, 0, 255))
    exif = image.Exif()
    exif[0x0112] = 6  # is to be turned clockwise
    given.save(tmp_path / "turned.png", exif=exif)
    want = ImageInput((2, 1), **PLAIN)
    got = want([tmp_path / "turned.png", str(tmp_path / "turned.png"), given.rotate(-90, expand=True)])
    assert got.shape == (3, 3, 2, 1)
    assert torch.equal(got[0], got[2]) and torch.equal(got[1], got[2])
    assert want([]).shape == (0, 3, 2, 1)


def test_what_is_no_picture(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    take = ImageInput((4, 4))
    with pytest.raises(ValueError, match="broken.png: not a picture that can be read"):
        take(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError):
        take(tmp_path / "missing.png")
    with pytest.raises(TypeError, match="a picture is one of Pillow or the path of a file, not a int"):
        take(3)
    with pytest.raises(ValueError, match="1 x 5000 pixels, which is too narrow"):
        ImageInput((64, 64), shorter=64)(image.new("RGB", (1, 5000)))


def test_plain_data_and_back():
    given = ImageInput((3, 5), shorter=7, classes=("a cat", "Ä"), mean=(0.1,), std=(0.2,), interpolation="lanczos")
    assert ImageInput.from_json(given.to_json()) == given


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": [0, 3]}, "size must be a height and a width"),
        ({"size": [3]}, "size must be a height and a width"),
        ({"size": 3}, "size must be a list"),
        ({"size": [True, 3]}, "size must be a height and a width"),
        ({"size": [3, 1 << 20]}, "from 1 to 16384"),
        ({"shorter": 2}, "must not be below size"),
        ({"shorter": 1.5}, "shorter None or a number"),
        ({"fit": "squeeze"}, "fit must be one of crop, pad, stretch"),
        ({"fit": ["crop"]}, "fit must be a text"),
        ({"shorter": 9, "fit": "pad"}, "shorter goes with fit='crop'"),
        ({"interpolation": "__class__"}, "interpolation one of nearest"),
        ({"mean": [0.1, 0.2]}, "three finite numbers each"),
        ({"mean": [0.1, 0.2, float("nan")]}, "three finite numbers each"),
        ({"std": [0.1, 0.2, 0.0]}, "std above 0"),
        ({"mean": [10**400, 0, 0]}, "three finite numbers each"),
        ({"std": [10**40, 1, 1]}, "three finite numbers each"),
        ({"classes": [1]}, "classes must be texts"),
        ({"more": 1}, "must be a table of"),
    ],
)
def test_bad_values(changes, words):
    plain = ImageInput((3, 5)).to_json()
    with pytest.raises(ValueError, match=words):
        ImageInput.from_json({**plain, **changes})
