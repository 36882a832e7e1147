"""The FFHQ recipe: its formulas in plain numpy, and crops that are known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zsem.data.align import align, ffhq_quad, five_points, side
from zsem.values import draws
from zsem.values.errors import ZsemError


def face(x=100.0, y=80.0, eyes=40.0, mouth=40.0, turn=0.0):
    """Five points of a face: the middle between the eyes, their distance, that of the mouth, and its turn (degrees)."""
    points = np.array([[-eyes / 2, 0], [eyes / 2, 0], [0, mouth / 2], [-eyes / 3, mouth], [eyes / 3, mouth]])
    return points @ rotation(turn).T + [x, y]


def rotation(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s], [s, c]])


def in_68(five, seed=0):
    """68 points whose five are these, up to rounding; the others lie anywhere."""
    rng = draws.generator(11, seed)
    points = rng.normal(0, 100, (68, 2))
    for start, eye in ((36, five[0]), (42, five[1])):
        scatter = rng.normal(0, 5, (6, 2))
        points[start : start + 6] = eye + scatter - scatter.mean(0)
    points[30], points[48], points[54] = five[2:]
    return points


def quad_by_the_recipe(lm):
    """As the recipe's formulas stand in CelebA-HQ's appendix and in the scripts that came after it."""
    eye_left, eye_right = np.mean(lm[36:42], axis=0), np.mean(lm[42:48], axis=0)
    eye_avg = (eye_left + eye_right) * 0.5
    eye_to_eye = eye_right - eye_left
    eye_to_mouth = (lm[48] + lm[54]) * 0.5 - eye_avg
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x /= np.hypot(*x)
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    c = eye_avg + eye_to_mouth * 0.1
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


coordinates = st.floats(-500, 500)


class TestQuad:
    @given(
        st.tuples(coordinates, coordinates, st.floats(5, 300), st.floats(5, 300), st.floats(-180, 180)),
        st.integers(0, 1000),
    )
    def test_equals_the_formulas_of_the_recipe(self, about, seed):
        rng = draws.generator(12, seed)
        points = in_68(face(*about) + rng.normal(0, 1, (5, 2)), seed)
        expected = quad_by_the_recipe(points)
        assert np.abs(ffhq_quad(points) - expected).max() < 1e-9
        assert np.abs(ffhq_quad(five_points(points)) - expected).max() < 1e-9

    def test_a_level_face_in_closed_form(self):
        # 4 |e| = 160 is more than 3.6 |m| = 144; the centre is 0.1 * 40 below the eyes
        quad = ffhq_quad(face(eyes=40, mouth=40))
        assert np.abs(quad - [[20, 4], [20, 164], [180, 164], [180, 4]]).max() < 1e-9
        # 3.6 |m| = 180 is more than 4 |e| = 160
        quad = ffhq_quad(face(eyes=40, mouth=50))
        assert np.abs(quad - [[10, -5], [10, 175], [190, 175], [190, -5]]).max() < 1e-9
        assert side(quad) == pytest.approx(180)

    def test_turns_and_grows_with_the_face(self):
        level = ffhq_quad(face(0, 0))
        for degrees in (-170, -30, 12, 90):
            assert np.abs(ffhq_quad(face(0, 0, turn=degrees)) - level @ rotation(degrees).T).max() < 1e-9
        assert np.abs(ffhq_quad(3 * face(0, 0) + 7) - (3 * level + 7)).max() < 1e-9

    def test_five_of_68(self):
        five = face()
        assert np.abs(five_points(in_68(five)) - five).max() < 1e-9

    @pytest.mark.parametrize(
        ("points", "sentence"),
        [
            (face()[[1, 0, 2, 4, 3]], "left eye, right eye, nose, left and right corner of the mouth"),
            (face() * [1, 0], "the landmarks make no face"),
            (np.zeros((5, 2)), "the landmarks make no face"),
            (face() * np.nan, "not all finite"),
            (np.where(face() == 120, np.inf, face()), "not all finite"),
            (face(eyes=0.9, mouth=1), "3.6 pixels wide: at least 4 are needed"),
        ],
    )
    def test_points_that_make_no_face(self, points, sentence):
        with pytest.raises(ZsemError, match=sentence):
            ffhq_quad(points)

    def test_other_numbers_of_points_are_the_callers_mistake(self):
        with pytest.raises(ValueError, match="5 or 68 landmarks, not 6"):
            ffhq_quad(np.ones((6, 2)))


def square(centre, length, turn=0.0):
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * length / 2
    return corners @ rotation(turn).T + centre


def ramp(width, height):
    """A picture that says where it was taken: red is x, green is y, as shares of 255."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.rint(np.stack([255 * x / (width - 1), 255 * y / (height - 1), 0 * x], 2)).astype(np.uint8)
    )


def values(image):
    return np.asarray(image, dtype=np.float64)


def centres(quad, size):
    """x, y in the image of the centre of every pixel of the crop, [size, size, 2]."""
    shares = (np.arange(size) + 0.5) / size
    right, down = (quad[3] - quad[0]), (quad[1] - quad[0])
    return quad[0] + shares[None, :, None] * right + shares[:, None, None] * down


class TestCrop:
    @pytest.mark.parametrize("turn", [0, 30, -77, 180])
    @pytest.mark.parametrize(("length", "size"), [(64, 64), (100, 64), (100, 160), (150, 64), (130, 16)])
    def test_shows_what_lies_in_the_square(self, turn, length, size):
        quad = square((128, 131), length, turn)
        crop = align(ramp(256, 256), quad, size)
        assert (crop.mode, crop.size) == ("RGB", (size, size))
        # A reduction by a whole number moves the picture by half a pixel less half a reduced one, as in the recipe
        shrink = max(1, int(length / size / 2))
        expected = centres(quad, size) + (shrink - 1) / 2
        missing = (expected - values(crop)[:, :, :2])[2:-2, 2:-2]  # at its edge the last resampling averages less
        assert np.abs(missing).max() < 1.5
        if shrink == 1:
            # Pillow's bilinear transform drops fractions, a quarter to a half in the mean; half a pixel amiss shows
            assert missing.mean((0, 1)).min() > -0.1 and missing.mean((0, 1)).max() < 0.6

    def test_a_turned_photo_gives_the_same_crop(self):
        photo = self.smooth(300)
        points = face(150, 140, turn=0)
        level = align(photo, ffhq_quad(points), 64)
        turned = photo.rotate(-30, Image.Resampling.BICUBIC)  # clockwise about the middle between the pixels
        crop = align(turned, ffhq_quad((points - 149.5) @ rotation(30).T + 149.5), 64)
        assert np.abs(values(crop) - values(level)).max() < 3
        assert np.abs(values(align(photo, ffhq_quad(face(150, 140, turn=5)), 64)) - values(level)).max() > 10

    def test_an_enlarged_photo_gives_the_same_crop(self):
        photo = self.smooth(300)
        points = face(150, 140)
        large = photo.resize((450, 450), Image.Resampling.BICUBIC)
        crops = [align(photo, ffhq_quad(points), 80), align(large, ffhq_quad((points + 0.5) * 1.5 - 0.5), 80)]
        assert np.abs(values(crops[0]) - values(crops[1])).max() < 3

    def smooth(self, length):
        y, x = np.mgrid[:length, :length]
        waves = [np.sin(x / 9 + y / 23), np.sin(y / 11 - x / 31), np.cos((x + y) / 13)]
        return Image.fromarray(np.rint(127.5 + 100 * np.stack(waves, 2)).astype(np.uint8))

    def test_grey_becomes_rgb(self):
        crop = align(ramp(64, 64).getchannel(0), square((32, 32), 20), 16)
        assert crop.mode == "RGB"
        assert np.ptp(values(crop), axis=2).max() == 0

    def test_the_same_crop_whatever_lies_far_away(self):
        array = values(self.smooth(200)).astype(np.uint8)
        quad = square((100, 90), 60, 10)
        crop = align(Image.fromarray(array), quad, 32)
        array[:30] = 0
        array[:, :30] = 0
        assert np.array_equal(values(align(Image.fromarray(array), quad, 32)), values(crop))


class TestBorder:
    """What lies outside the image: its reflection, which fades to the median."""

    width = 200

    def wave(self, x):
        return 128 + 100 * np.cos(2 * np.pi * x / self.width)

    def photo(self):
        row = np.rint(self.wave(np.arange(self.width)))
        return Image.fromarray(np.broadcast_to(row[None, :, None], (200, self.width, 3)).astype(np.uint8))

    def test_reflection_and_fading_in_closed_form(self):
        # The square spans x = -30 .. 70: the recipe keeps x = 0 .. 80 and pads 30 + 10 pixels before it, 30 behind
        crop = values(align(self.photo(), square((20, 100), 100), 100))
        x = np.arange(100) - 29.5
        outside = x < 0
        padded = self.wave(np.abs(np.concatenate([np.arange(-40, 80), np.arange(78, 48, -1)])))
        fade = np.clip(-x / 40, 0, 1)
        expected = self.wave(np.abs(x)) * (1 - fade) + np.median(padded) * fade
        assert fade[0] > 0.7
        middle = crop[10:-10]
        assert np.abs(middle[:, outside] - expected[outside, None]).max() < 1.5
        # Inside, the blur alone: this wave is too long for it to show
        assert np.abs(middle[:, ~outside][:, :-3] - expected[~outside, None][:-3]).max() < 2.5

    def test_the_blur_is_full_at_the_edge_and_ends_a_third_of_the_padding_inside(self):
        # A wave of 12 pixels downwards: a Gaussian of 2 pixels (0.02 of the side) leaves this share of it
        left = np.exp(-2 * np.pi**2 * 2**2 / 12**2)
        stripes = np.rint(128 + 100 * np.cos(2 * np.pi * np.arange(400) / 12))
        photo = Image.fromarray(np.broadcast_to(stripes[:, None, None], (400, 300, 3)).astype(np.uint8))
        crop = values(align(photo, square((40, 200), 100), 100))
        height = crop[20:80, :, 0].std(0)  # of five waves
        # Columns 0 .. 9 lie outside; 10 pixels are missing and 10 more for the border, so that 30 are padded
        depth = 1 - (np.arange(100) - 9.5 + 30) / 30
        expected = (1 - (1 - left) * np.clip(3 * depth + 1, 0, 1)) * (1 - np.clip(depth, 0, 1))
        assert np.abs(height / height[50] - expected)[:-3].max() < 0.03
        assert height[50] == pytest.approx(np.cos(np.pi / 12) * 100 / np.sqrt(2), rel=0.02)  # half a pixel's resampling

    def test_nothing_else_is_changed(self):
        noise = draws.generator(13, 0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        quads = square((140, 200), 100), square((40, 200), 100)
        whole, cut = (align(Image.fromarray(noise[:, i:]), quad, 100) for i, quad in zip((0, 100), quads, strict=True))
        same = (values(whole) == values(cut)).all(axis=2)
        assert same[4:-4, 10 + 10 + 4 : -4].all()
        assert not same[:, :19].all(axis=0).any()

    def test_one_colour_stays_one_colour(self):
        photo = Image.new("RGB", (90, 70), (10, 200, 77))
        for centre in ((5, 5), (85, 35), (45, 69)):
            crop = align(photo, square(centre, 120, 33), 48)
            assert np.array_equal(values(crop), np.broadcast_to([10, 200, 77], (48, 48, 3)))

    def test_a_photo_much_smaller_than_the_square(self):
        crop = align(ramp(3, 2), square((1, 1), 400), 16)
        assert np.abs(values(crop) - np.median(values(ramp(3, 2)), axis=(0, 1))).max() < 140
        assert align(Image.new("RGB", (1, 1), "red"), square((0, 0), 5000), 16).getpixel((3, 3)) == (255, 0, 0)

    def test_a_small_square_has_borders_all_the_same(self):
        crop = align(ramp(256, 256), square((100, 100), 4), 16)
        assert np.abs(values(crop)[:, :, 0].mean() - 100) < 1.5

    @pytest.mark.parametrize("centre", [(-1, 10), (10, -1), (30, 10), (10, 20), (1e6, 0)])
    def test_a_face_outside_the_photo(self, centre):
        with pytest.raises(ZsemError, match="outside the image of 30 x 20 pixels"):
            align(Image.new("RGB", (30, 20)), square(centre, 10), 16)
