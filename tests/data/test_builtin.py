import json
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data import avatar_faces, builtin
from zsem.data.avatar_faces import Face, Pose, dicebear_options, render
from zsem.data.avatar_styles import STYLES
from zsem.data.builtin import avatars, counterfactual, digits, draw_face
from zsem.data.images import load_images
from zsem.values.errors import ZsemError

AVATAAARS = STYLES["avataaars"]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return avatars(tmp_path_factory.mktemp("data") / "faces", number=20, size=32, workers=1)


def by_index(folder):
    """The images in the order of their numbers, whatever their split."""
    images = load_images(folder, size=32)
    return images.subset(sorted(range(len(images)), key=lambda i: images.paths[i].split("/")[1]))


def test_a_set_has_its_split_and_its_labels(faces):
    images = by_index(faces)
    assert images.pixels.shape == (20, 3, 32, 32) and images.class_names == [] and images.notes == []
    assert images.paths[0] == "train/000000.png" and images.paths[-1] == "val/000019.png"
    assert Counter(images.splits) == {"train": 18, "val": 2}
    assert list(images.attributes) == ["glasses", "beard", "smile", "hat", "long_hair", "eyes_closed"]
    drawn = [draw_face(AVATAAARS, "mild", 0, i).attributes for i in range(20)]
    for name, values in images.attributes.items():
        assert values.tolist() == [face[name] for face in drawn]


def test_counterfactuals_equal_the_stored_image_or_change_only_the_attribute_s_place(faces):
    images = by_index(faces)
    rows = {"glasses": slice(8, 28), "smile": slice(18, 32), "eyes_closed": slice(10, 24), "beard": slice(10, 32)}
    for index in range(6):
        for attribute, values in images.attributes.items():
            has = bool(values[index])
            assert torch.equal(counterfactual(faces, index, attribute, has), images.pixels[index])
            if attribute == "long_hair" and not has and images.attributes["hat"][index]:
                continue
            other = counterfactual(faces, index, attribute, not has)
            assert other.dtype == torch.uint8 and other.shape == (3, 32, 32)
            changed = (other.int() - images.pixels[index].int()).abs().amax(0) > 8
            assert changed.sum() >= 10
            if attribute in rows:
                outside = changed.clone()
                outside[rows[attribute]] = False
                assert not outside.any()


def test_a_hat_hides_the_hair(faces):
    record = json.loads((faces / "avatars.json").read_text())
    hats, long_hair = record["attributes"]["hat"], record["attributes"]["long_hair"]
    assert not any(hat and hair for hat, hair in zip(hats, long_hair, strict=True))
    covered, shown = hats.index(1), long_hair.index(1)
    with pytest.raises(ZsemError, match=f"face {covered} of .* has hat, beside which long_hair cannot be seen"):
        counterfactual(faces, covered, "long_hair", True)
    short = counterfactual(faces, shown, "long_hair", False)
    assert not torch.equal(counterfactual(faces, shown, "hat", True), short)


@pytest.mark.parametrize(
    ("index", "attribute", "sentence"),
    [
        (0, "moustache", "no attribute 'moustache': glasses, beard"),
        (20, "hat", "faces 0 to 19, not 20"),
        (-1, "hat", "-1"),
    ],
)
def test_counterfactuals_that_cannot_be(faces, index, attribute, sentence):
    with pytest.raises(ZsemError, match=sentence):
        counterfactual(faces, index, attribute, True)


def test_counterfactuals_need_a_record_made_by_the_same_versions(faces, tmp_path, monkeypatch):
    with pytest.raises(ZsemError, match=r"avatars\.json cannot be read"):
        counterfactual(tmp_path, 0, "hat", True)
    monkeypatch.setattr(avatar_faces, "versions", lambda: {"dicebear-core": "99"})
    with pytest.raises(ZsemError, match="the drawings may differ"):
        counterfactual(faces, 0, "hat", True)


def test_a_face_depends_on_seed_and_index_alone(tmp_path, faces):
    fewer = avatars(tmp_path / "few", number=3, size=32, workers=1)
    assert torch.equal(by_index(fewer).pixels, by_index(faces).pixels[:3])
    other = avatars(tmp_path / "other", number=3, size=32, seed=1, workers=1)
    assert not torch.equal(by_index(other).pixels, by_index(faces).pixels[:3])


def test_processes_draw_what_one_process_draws(tmp_path, monkeypatch, faces):
    monkeypatch.setattr(builtin, "CHUNK", 5)
    calls = []
    folder = avatars(
        tmp_path / "set", number=20, size=32, workers=2, progress=lambda done, total: calls.append((done, total))
    )
    assert torch.equal(by_index(folder).pixels, by_index(faces).pixels)
    assert calls == [(5, 20), (10, 20), (15, 20), (20, 20)]
    assert (folder / "avatars.json").read_text() == (faces / "avatars.json").read_text()


def test_jitter_levels_share_their_draw():
    for index in range(5):
        none, light, mild = (draw_face(AVATAAARS, jitter, 0, index) for jitter in ("none", "light", "mild"))
        assert none.pose == Pose()
        assert none.parts == light.parts == mild.parts and none.attributes == mild.attributes
        assert mild.pose.degrees == pytest.approx(2 * light.pose.degrees, abs=2e-4)
        assert mild.pose.shift_x == pytest.approx(2 * light.pose.shift_x, abs=2e-5)
    poses = [draw_face(AVATAAARS, "mild", 0, index).pose for index in range(300)]
    bounds = {"shift_x": 0.08, "shift_y": 0.08, "scale": 0.1, "degrees": 8, "brightness": 0.15}
    for name, bound in bounds.items():
        values = np.array([getattr(pose, name) for pose in poses]) - getattr(Pose(), name)
        assert 0.97 * bound < np.abs(values).max() <= bound and abs(values.mean()) < 0.12 * bound


def test_rates_and_independence_of_attributes():
    drawn = [draw_face(AVATAAARS, "mild", 0, index).attributes for index in range(1500)]
    table = np.array([list(face.values()) for face in drawn], dtype=float)
    names = list(AVATAAARS.rates)
    rates = {**AVATAAARS.rates, "long_hair": 0.5 * 0.75}
    assert np.abs(table.mean(0) - [rates[name] for name in names]).max() < 0.04
    correlation = np.corrcoef(table.T) - np.eye(len(names))
    hat, hair = names.index("hat"), names.index("long_hair")
    correlation[hat, hair] = correlation[hair, hat] = 0
    assert np.abs(correlation).max() < 0.1


def test_the_pose_moves_turns_scales_and_lights_the_picture():
    face = draw_face(AVATAAARS, "none", 0, 0)
    size = 64

    def drawn(**pose) -> np.ndarray:
        return render("avataaars", replace(face, pose=Pose(**pose)), size).astype(float)

    plain = drawn()
    moved = drawn(shift_x=0.125, shift_y=0.0625)  # 8 and 4 pixels
    assert np.abs(moved[4:, 8:] - plain[:-4, :-8]).max() <= 2
    upright = Image.fromarray(plain.astype(np.uint8))
    turned = np.asarray(upright.rotate(-8, Image.Resampling.BICUBIC), dtype=float)  # Pillow counts anticlockwise
    inside = np.hypot(*(np.mgrid[:size, :size] - 31.5)) < 28
    right, wrong = (np.abs(drawn(degrees=degrees) - turned)[inside].mean() for degrees in (8.0, -8.0))
    assert 2 * right < wrong
    nearer = np.asarray(upright.crop((8, 8, 56, 56)).resize((64, 64), Image.Resampling.BICUBIC), dtype=float)
    assert 2 * np.abs(drawn(scale=64 / 48) - nearer).mean() < np.abs(plain - nearer).mean()
    assert np.abs(drawn(brightness=0.85) - 0.85 * plain).max() <= 0.5


def test_rendering_at_twice_the_size_shows_the_same_picture():
    face = draw_face(AVATAAARS, "mild", 0, 3)
    small, large = (render("avataaars", face, size).astype(float) for size in (32, 64))
    assert np.abs(large.reshape(32, 2, 32, 2, 3).mean((1, 3)) - small).mean() < 3


@pytest.mark.parametrize("style", STYLES)
def test_every_part_is_drawn_and_every_attribute_can_be_seen(style):
    """Each part changes the options DiceBear gets, DiceBear knows it, and each attribute changes the picture."""
    table = STYLES[style]
    first = {slot: choices[0] for slot, choices in table.parts.items()}
    known = json.loads(
        avatar_faces.importlib.resources.files("dicebear_styles").joinpath(f"{style}.json").read_text("utf-8")
    )
    for option, rule in table.options.items():
        slots = [rule] if isinstance(rule, str) else [slot for _, slot in rule]
        for slot in slots:
            if option.endswith("Variant"):
                variants = known["components"][option.removesuffix("Variant")]["variants"]
                assert set(table.parts[slot]) <= set(variants), slot
            else:
                assert option.removesuffix("Color") in {*known["colors"], "background"}
    used = {
        slot for rule in table.options.values() for slot in ([rule] if isinstance(rule, str) else dict(rule).values())
    }
    assert used == set(table.parts) and set(table.shown) <= set(known["components"])
    plain = dict.fromkeys(table.rates, False)
    base = render(style, Face(parts=first, attributes=plain, pose=Pose()), 48).astype(int)
    for attribute in table.rates:
        face = Face(parts=first, attributes={**plain, attribute: True}, pose=Pose())
        assert (np.abs(render(style, face, 48) - base).max(2) > 20).sum() >= 8, attribute


@pytest.mark.parametrize("style", STYLES)
def test_no_option_is_left_to_chance(style, monkeypatch):
    """Another DiceBear seed gives the same drawing: all that DiceBear would draw at random is pinned."""
    for index in range(3):
        face = draw_face(STYLES[style], "none", 0, index)
        drawings = set()
        for seed in "abcd":
            options = {**dicebear_options(STYLES[style], face), "seed": seed}
            monkeypatch.setattr(avatar_faces, "dicebear_options", lambda style, face, options=options: options)
            drawings.add(render(style, face, 32).tobytes())
        assert len(drawings) == 1


@pytest.mark.parametrize("style", ["avataaars", "toon-head", "pixel-art"])
def test_hair_stands_out_from_skin_and_background(style):
    table = STYLES[style]
    for colour in table.parts["hair_color"]:
        assert all(builtin._contrast(colour, other) >= builtin.CONTRAST for other in table.parts["background"])
    for index in range(300):
        parts = draw_face(table, "none", 0, index).parts
        assert builtin._contrast(parts["hair_color"], parts["skin"]) >= builtin.CONTRAST


@pytest.mark.parametrize("style", [style for style in STYLES if style != "avataaars"])
def test_other_styles_make_sets_too(tmp_path, style):
    folder = avatars(tmp_path / style, number=2, size=16, style=style, jitter="light", workers=1)
    images = load_images(folder, size=16)
    assert list(images.attributes) == list(STYLES[style].rates)
    index, attribute = 1, next(iter(images.attributes))
    assert torch.equal(
        counterfactual(folder, index, attribute, bool(images.attributes[attribute][index])), images.pixels[index]
    )


def test_pixel_art_is_crisp_at_its_own_size():
    face = draw_face(STYLES["pixel-art"], "none", 0, 0)
    small, large = (render("pixel-art", face, size) for size in (16, 64))
    assert np.array_equal(small.repeat(4, 0).repeat(4, 1), large)


def test_the_same_set_is_not_drawn_twice_and_another_is_not_overwritten(tmp_path, monkeypatch, faces):
    def fail(*arguments):
        raise AssertionError("drawn again")

    monkeypatch.setattr(avatar_faces, "write", fail)
    assert avatars(faces, number=20, size=32) == faces
    with pytest.raises(ZsemError, match=r"other settings \(number, seed\): remove it"):
        avatars(faces, number=21, size=32, seed=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ZsemError, match="is not a set made by this command"):
        avatars(tmp_path / "mine", number=1)
    with pytest.raises(ZsemError, match="not a set made"):
        digits(tmp_path / "mine" / "thesis.txt")


def test_a_set_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(avatar_faces, "write", full_disk)
        with pytest.raises(ZsemError, match="could not be written, and nothing of it was left: No space left"):
            avatars(tmp_path / "set", number=3, size=16, workers=1)

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        avatars(tmp_path / "set", number=3, size=16, workers=1, progress=interrupted)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()  # an empty folder is as good as none
    avatars(tmp_path / "set", number=1, size=16, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_bad_requests_are_one_sentence(tmp_path):
    with pytest.raises(ZsemError, match="no avatar style 'manga': choose one of avataaars"):
        avatars(tmp_path / "x", style="manga")
    with pytest.raises(ZsemError, match="cannot draw 0 faces"):
        avatars(tmp_path / "x", number=0)
    with pytest.raises(ZsemError, match="at least 8 pixels"):
        digits(tmp_path / "x", size=4)


def test_without_the_drawing_packages_the_extra_is_named(tmp_path, monkeypatch):
    def missing(name: str) -> str:
        raise avatar_faces.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(avatar_faces.importlib.metadata, "version", missing)
    with pytest.raises(ZsemError, match=r"pip install 'zsem\[avatars\]'"):
        avatars(tmp_path / "x", number=1)


def test_a_script_without_a_main_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            from zsem.data import builtin
            from zsem.values.errors import ZsemError
            try:
                builtin.avatars("set", number=101, size=8, workers=2)
            except ZsemError as error:
                print(error)
        """)
    )
    result = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "if __name__ == '__main__'" in result.stdout and not (tmp_path / "set").exists()


def test_digits(tmp_path):
    from sklearn.datasets import load_digits

    folder = digits(tmp_path / "digits", size=16)
    images = load_images(folder, size=16)
    assert images.pixels.shape == (1797, 1, 16, 16) and images.class_names == list("0123456789")
    assert Counter(images.splits) == {"train": 1617, "val": 180}
    truth = load_digits()
    for path, pixels, number in list(zip(images.paths, images.pixels, images.classes, strict=True))[::50]:
        index = int(path.split("/")[-1].removesuffix(".png"))
        assert truth.target[index] == number
        expected = np.rint(truth.images[index] * 255 / 16).repeat(2, 0).repeat(2, 1)
        assert np.array_equal(pixels[0].numpy(), expected)
    assert digits(folder, size=16) == folder
