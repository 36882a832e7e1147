import numpy as np
import pytest
from PIL import Image, ImageOps

from zsem.data.limits import UnreadableImageError
from zsem.data.shaping import channels_last, fit, standard, to_channels, to_depth, upright, without_colour

RNG = np.random.default_rng(0)


def values(shape: tuple[int, ...], depth: str) -> np.ndarray:
    if depth == "float32":
        return RNG.normal(size=shape).astype(np.float32)
    limits = np.iinfo(depth)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(depth)


@pytest.mark.parametrize("depth", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(("width", "height"), [(16, 12), (12, 16), (13, 12), (12, 12)])
def test_centre_crop_of_the_right_size_is_not_resampled(width, height, depth):
    array = values((height, width, 3), depth)
    left, top = (width - 12) // 2, (height - 12) // 2
    assert np.array_equal(fit(array, (12, 12)), array[top : top + 12, left : left + 12])


def test_a_size_that_is_no_square_takes_the_largest_crop_of_its_proportions():
    rows, columns = np.mgrid[:100, :75]
    array = (rows // 50 * 100 + columns // 25).astype(np.uint8)[:, :, None]
    assert np.array_equal(fit(array, (100, 75)), array)
    crop = fit(array, (60, 75))  # whole width, the middle 60 rows
    assert np.array_equal(crop, array[20:80])
    assert fit(array, (10, 30)).shape == (10, 30, 1)
    assert fit(array, (200, 2)).shape == (200, 2, 1)


def test_reduction_is_antialiased_and_enlargement_works():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # every second column: without antialiasing the result would be black or white
    assert np.abs(fit(stripes, (8, 8)).astype(float) - 127.5).max() < 6
    assert fit(stripes, (100, 100)).shape == (100, 100, 3)


def test_deep_images_are_resized_as_eight_bit_ones_are_but_finer():
    eight = RNG.integers(0, 256, (40, 50, 1), dtype=np.uint8)
    expected = fit(eight, (16, 16)).astype(float)
    for depth, factor in (("uint16", 257), ("int16", 100), ("float32", 0.01)):
        deep = fit((eight * np.float64(factor)).astype(depth), (16, 16))
        assert deep.dtype == depth
        assert np.abs(deep / factor - expected).max() < 1.3  # eight bits are rounded after each of two passes
    full = np.zeros((40, 40, 1), np.uint16)
    full[20:] = 65535  # beside an edge Lanczos goes beyond both values
    assert fit(full, (30, 30)).min() == 0 and fit(full, (30, 30)).max() == 65535


def test_channels_beyond_rgb_are_resized_one_by_one():
    """Not as RGBA, whose colours Pillow weighs with the fourth channel."""
    array = values((24, 24, 5), "uint8")
    resized = fit(array, (8, 8))
    for band in range(5):
        expected = fit(array[:, :, band : band + 1], (8, 8))[:, :, 0].astype(int)
        assert np.abs(resized[:, :, band].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("given", "depth"),
    [("bool", "uint8"), ("uint8", "uint8"), (">u2", "uint16"), ("int8", "int16"), ("<i2", "int16")]
    + [(kind, "float32") for kind in ("float16", "float32", ">f4", "float64", "int32", "uint64")],
)
def test_every_type_of_number_becomes_one_of_four_without_loss(given, depth):
    array = np.array([[0, 1], [1, 0]] if given == "bool" else [[0, 1], [100, 127]]).astype(given)
    result = standard(array)
    assert result.dtype == np.dtype(depth) and result.dtype.isnative
    assert np.array_equal(result, array * (255 if given == "bool" else 1))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([[1.0, np.nan]]), "not finite"),
        (np.array([[1.0, 1e300]]), "not finite"),
        (np.array([[0, 2**24 + 1]]), "above 2\\^24"),
        (np.array([[-(2**40), 0]]), "above 2\\^24"),
        (np.array([[1j]]), "complex128, not of numbers"),
        (np.array([["a"]]), "not of numbers"),
    ],
)
def test_numbers_that_would_be_lost_are_refused(array, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        standard(array)


def test_the_shorter_end_of_an_array_is_its_channels():
    assert channels_last(np.zeros((5, 6))).shape == (5, 6, 1)
    assert channels_last(np.zeros((5, 6, 2))).shape == (5, 6, 2)
    assert channels_last(np.zeros((2, 5, 6))).shape == (5, 6, 2)
    assert channels_last(np.zeros((1, 1, 5, 6))).shape == (5, 6, 1)
    assert channels_last(np.zeros((4, 4, 4))).shape == (4, 4, 4)
    array = np.arange(2 * 5 * 6).reshape(2, 5, 6)
    assert np.array_equal(channels_last(array)[:, :, 1], array[1])
    for shape in ((5,), (0, 5), (2, 3, 4, 5)):
        with pytest.raises(UnreadableImageError, match="where an image is"):
            channels_last(np.zeros(shape))


@pytest.mark.parametrize("depth", ["uint16", "int16", "float32"])
def test_grey_of_colours_is_pillows_at_every_depth(depth):
    eight = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(eight).convert("L"), dtype=float)
    factor = 257 if depth == "uint16" else 100
    result = to_channels((eight.astype(np.float64) * factor).astype(depth), 1)
    assert result.dtype == depth and np.abs(result[:, :, 0] / factor - grey).max() < 0.52


def test_grey_and_colour_become_each_other_and_nothing_else_does():
    grey = values((3, 4, 1), "uint16")
    assert np.array_equal(to_channels(grey, 3), np.concatenate([grey] * 3, axis=2))
    assert np.array_equal(without_colour(to_channels(grey, 3)), grey)
    assert without_colour(values((3, 4, 3), "uint8")).shape == (3, 4, 3)
    for there, wanted in ((2, 1), (4, 3), (1, 5)):
        with pytest.raises(UnreadableImageError, match=f"an image of {there} channels, where {wanted} are wanted"):
            to_channels(values((3, 4, there), "uint8"), wanted)


def test_depths_change_only_from_8_to_16_bits():
    eight = values((3, 4, 1), "uint8")
    assert np.array_equal(to_depth(eight, "uint16"), eight.astype(int) * 257)
    for there, wanted in (("uint16", "uint8"), ("float32", "uint8"), ("uint8", "float32"), ("int16", "uint16")):
        with pytest.raises(UnreadableImageError, match=f"an image of {there} values, where {wanted} is wanted"):
            to_depth(values((3, 4, 1), there), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_undone_as_pillow_undoes_them(orientation):
    array = values((5, 7, 3), "uint8")
    image = Image.fromarray(array)
    image.getexif()[0x0112] = orientation
    assert np.array_equal(upright(array, orientation), np.asarray(ImageOps.exif_transpose(image)))
