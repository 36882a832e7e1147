import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsem.data.intensity import EIGHT_BITS, Intensity, choose_intensity, full_range, intensity_note
from zsem.data.pixels import from_uint8, to_uint8
from zsem.values.errors import ZsemError


def every_value(depth: str) -> torch.Tensor:
    limits = np.iinfo(depth)
    return torch.from_numpy(np.arange(limits.min, limits.max + 1).astype(depth))


def test_eight_bits_are_what_they_always_were():
    values = every_value("uint8")
    assert choose_intensity(values[None, None, None]) == full_range("uint8") == EIGHT_BITS == Intensity()
    assert torch.equal(EIGHT_BITS.normalise(values), from_uint8(values))
    x = torch.linspace(-1.5, 1.5, 1001)
    assert torch.equal(EIGHT_BITS.restore(x), to_uint8(x))


@pytest.mark.parametrize("depth", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("window", [None, (100.0, 120.0), (-2000.0, 300.5)])
def test_every_whole_value_comes_back_also_from_outside_the_window(depth, window):
    values = every_value(depth)
    intensity = full_range(depth) if window is None else Intensity(low=window[0], high=window[1], depth=depth)
    x = intensity.normalise(values)
    assert x.dtype == torch.float32 and torch.equal(intensity.restore(x), values)
    if window is None:
        assert (x.min(), x.max()) == (-1, 1)
    elif depth != "uint8" or window[1] < 255:
        assert x.max() > 1  # never clipped


def test_an_error_of_the_exact_codec_changes_no_value_of_sixteen_bits():
    """1e-7 is the codec's error on [0, 1] (MSE 1e-14); half a level of 16 bits is 7.6e-6."""
    values, intensity = every_value("uint16"), full_range("uint16")
    x = intensity.normalise(values).double()
    for error in (-2e-6, 2e-6):
        assert torch.equal(intensity.restore(x + error), values)
        assert intensity.identical(x, x + error).all()
    assert not intensity.identical(x[:-1], x[:-1] + 3.2e-5).any()  # above the last one there is none


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.lists(st.floats(-10, 10, width=32), min_size=1))
def test_floats_come_back_to_a_millionth_of_the_window(low, width, at):
    intensity = Intensity(kind="window", low=low, high=low + width, depth="float32")
    values = torch.tensor([low + width * place for place in at], dtype=torch.float32)
    back = intensity.restore(intensity.normalise(values))
    assert back.dtype == torch.float32
    assert (back - values).abs().max() <= 3e-6 * width + 3e-7 * (abs(low) + 10 * width)


def test_floats_are_told_apart_in_steps_of_sixteen_bits():
    intensity = Intensity(kind="window", low=0.0, high=2.0, depth="float32")
    x = torch.tensor([0.0, 0.5, 3.0])
    assert intensity.identical(x, x + 1e-5).all() and not intensity.identical(x, x + 2e-5).any()


@pytest.mark.parametrize(("share", "expected"), [((None, None), (1.0, 999.0)), ((5, 50), (50.0, 500.0))])
def test_percentiles_of_the_training_images(share, expected):
    values = torch.arange(1001, dtype=torch.float32)[torch.randperm(1001)].reshape(-1, 1, 1, 1)
    intensity = choose_intensity(values, kind="percentiles", low=share[0], high=share[1])
    assert (intensity.low, intensity.high) == pytest.approx(expected) and intensity.kind == "percentiles"
    if share == (None, None):
        assert choose_intensity(values) == intensity  # the default for floats


def test_wholes_take_the_full_range_unless_something_else_is_chosen():
    deep = torch.arange(100, 200).to(torch.uint16).reshape(-1, 1, 1, 1)
    assert choose_intensity(deep) == Intensity(kind="full", low=0.0, high=65535.0, depth="uint16")
    assert choose_intensity(deep, low=100, high=200) == Intensity(kind="window", low=100.0, high=200.0, depth="uint16")
    signed = deep.to(torch.int16)
    assert choose_intensity(signed) == Intensity(kind="full", low=-32768.0, high=32767.0, depth="int16")
    assert choose_intensity(signed, kind="percentiles").low == pytest.approx(100.099)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "full"}, "float images have no full range: choose percentiles, or a window"),
        ({"low": 1}, "needs both its low and its high end"),
        ({"kind": "window", "low": 2, "high": 1}, "2 to 1 are no window"),
        ({"kind": "percentiles", "low": 50, "high": 120}, "50 and 120 must lie between 0 and 100"),
        ({"kind": "percentiles", "low": 1, "high": 2}, "are both 0: choose wider ones"),
    ],
)
def test_choices_that_cannot_be_are_one_sentence(options, sentence):
    with pytest.raises(ZsemError, match=sentence):
        choose_intensity(torch.zeros(3, 1, 2, 2), **options)


def test_a_range_that_is_hardly_used_is_worth_a_note():
    note = intensity_note(full_range("uint16"), 0, 4095)
    assert note is not None and note.startswith("the images use values from 0 to 4095 of 0 to 65535: percentiles")
    assert intensity_note(full_range("uint16"), 0, 60000) is None
    assert intensity_note(EIGHT_BITS, 0, 10) is None
    assert intensity_note(Intensity(kind="window", low=0.0, high=9.0, depth="float32"), 0, 1) is None


def test_display_is_clipped():
    x = torch.tensor([-3.0, -1, 0, 1, 3])
    assert full_range("uint16").display(x).tolist() == [0, 0, 128, 255, 255]
