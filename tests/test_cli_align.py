"""`zsem align` as people run it, on pictures that are drawn here."""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsem.data.align import align, ffhq_quad
from zsem.data.landmarks import HEADER
from zsem.values import draws

FACE = np.array([[80, 80], [120, 80], [100, 100], [85, 120], [115, 120]], dtype=float)
# A face in shares of the box that the networks find, as the 68 points
EYES, MOUTH = np.array([[0.3, 0.4], [0.7, 0.4]]), np.array([[0.35, 0.8], [0.65, 0.8]])
POINTS = np.concatenate([np.full((36, 2), 0.5), EYES.repeat(6, 0), np.full((20, 2), 0.6)])
POINTS[[48, 54]] = MOUTH


@pytest.fixture(autouse=True)
def no_models_of_the_user(monkeypatch):
    monkeypatch.delenv("ZSEM_FACE_MODELS", raising=False)


@pytest.fixture
def zsem(zsem):
    """Run `zsem align`; gives exit code, stdout and stderr."""
    return lambda *args: zsem("align", *args)


@pytest.fixture(scope="module")
def models(tmp_path_factory, face_api):
    """Networks that take white spots for faces."""
    return face_api.bright_spots(tmp_path_factory.mktemp("package") / "model", POINTS)


def photo(number: int, width: int = 220, height: int = 200) -> Image.Image:
    """Smooth and coloured, nowhere white, and different for every number."""
    y, x = np.mgrid[:height, :width]
    phase = draws.generator(31, number).uniform(0, 6, 3)
    waves = [np.sin(x / 15 + phase[0]), np.sin(y / 17 + phase[1]), np.cos((x + y) / 23 + phase[2])]
    return Image.fromarray(np.rint(110 + 60 * np.stack(waves, 2)).astype(np.uint8))


def table(path: Path, rows: list[tuple[str, np.ndarray]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows([name, *points.ravel()] for name, points in rows)
    return path


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class TestLandmarks:
    def test_crops_are_those_of_the_recipe(self, zsem, tmp_path):
        photos, out = tmp_path / "photos", tmp_path / "out"
        (photos / "deep").mkdir(parents=True)
        names = ["a.png", "deep/b.bmp", "deep/c.png"]
        for number, name in enumerate(names):
            photo(number).save(photos / name)
        (photos / "attributes.csv").write_text("path,smile\na.png,1\n")
        rows = [(name, FACE + 3 * number) for number, name in enumerate(names)]
        code, text, err = zsem(
            photos, "--out", out, "--landmarks", table(tmp_path / "t.csv", rows), "--size", 64, "--json"
        )
        assert (code, err) == (0, "")
        assert json.loads(text) == {"n": 3, "faces": 3, "without_face": [], "skipped": [], "out": str(out)}
        assert files(out) == ["a.png", "deep/b.png", "deep/c.png"]
        for number, (name, points) in enumerate(rows):
            expected = align(photo(number), ffhq_quad(points), 64)
            assert np.array_equal(pixels((out / name).with_suffix(".png")), np.asarray(expected)), name

    def test_upright_by_exif_and_over_white_where_transparent(self, zsem, tmp_path):
        photos = tmp_path / "photos"
        photos.mkdir()
        exif = Image.Exif()
        exif[0x0112] = 6
        photo(0).transpose(Image.Transpose.ROTATE_90).save(photos / "turned.png", exif=exif)
        clear = photo(1).convert("RGBA")
        clear.putalpha(0)
        clear.save(photos / "clear.png")
        rows = [("turned.png", FACE), ("clear.png", FACE)]
        code, _, _ = zsem(photos, "--out", tmp_path, "--landmarks", table(tmp_path / "t.csv", rows), "--size", 32)
        assert code == 0
        expected = np.asarray(align(photo(0), ffhq_quad(FACE), 32))
        assert np.array_equal(pixels(tmp_path / "turned.png"), expected)
        assert (pixels(tmp_path / "clear.png") == 255).all()

    def test_largest_or_all(self, zsem, tmp_path):
        photo(0).save(tmp_path / "group.png")
        photo(1).save(tmp_path / "group-1.png")
        small, large = FACE * 0.5 + 50, FACE * 0.8 + 5
        rows = [("group.png", small), ("group.png", large), ("group-1.png", FACE)]
        given = ("--landmarks", table(tmp_path / "t.csv", rows), "--size", 32)
        source = tmp_path / "group.png"
        code, _, err = zsem(source, "--out", tmp_path / "one", *given)
        assert (code, files(tmp_path / "one")) == (0, ["group.png"])
        assert err == f"zsem: note: {given[1]} has rows about images that are not there: group-1.png\n"
        assert np.array_equal(pixels(tmp_path / "one/group.png"), np.asarray(align(photo(0), ffhq_quad(large), 32)))
        (tmp_path / "in").mkdir()
        for name in ("group.png", "group-1.png"):
            (tmp_path / name).rename(tmp_path / "in" / name)
        code, text, _ = zsem(tmp_path / "in", "--out", tmp_path / "all", *given, "--all-faces", "--json")
        assert (code, json.loads(text)["faces"]) == (0, 3)
        assert files(tmp_path / "all") == ["group-1-1.png", "group-1.png", "group-2.png"]
        for rank, points in (("1", large), ("2", small)):
            expected = np.asarray(align(photo(0), ffhq_quad(points), 32))
            assert np.array_equal(pixels(tmp_path / f"all/group-{rank}.png"), expected)

    def test_an_archive_and_what_cannot_be_cut_out(self, zsem, tmp_path):
        photos = tmp_path / "wrap"
        photos.mkdir()
        for number, name in enumerate(["a.png", "bare.png", "beside.png", "torn.png"]):
            photo(number).save(photos / name)
        (photos / "torn.png").write_bytes((photos / "torn.png").read_bytes()[:500])
        archive = tmp_path / "photos.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(photos, "wrap")
        rows = [("a.png", FACE), ("beside.png", FACE + 500), ("torn.png", FACE)]
        given = ("--landmarks", table(tmp_path / "t.csv", rows), "--out", tmp_path / "out")
        code, text, _ = zsem(archive, *given, "--json")
        figures = json.loads(text)
        assert code == 0
        assert (figures["n"], figures["faces"], figures["without_face"]) == (4, 1, ["bare.png"])
        assert {entry["path"]: entry["reason"] for entry in figures["skipped"]} == {
            "beside.png": "the face would be around 600, 584, outside the image of 220 x 200 pixels",
            "torn.png": "damaged (image file is truncated)",
        }
        assert files(tmp_path / "out") == ["a.png"]
        _, text, _ = zsem(archive, *given)
        assert text.splitlines() == [
            "no landmarks: bare.png",
            f"left out: beside.png ({figures['skipped'][0]['reason']})",
            f"left out: torn.png ({figures['skipped'][1]['reason']})",
            f"faces: 1, from 4 images, in {tmp_path / 'out'}",
        ]

    def test_limit_is_evenly_spaced_and_changes_no_names(self, zsem, tmp_path):
        photos = tmp_path / "photos"
        photos.mkdir()
        names = [f"{number}{ending}" for number in range(1, 13) for ending in (".png", ".bmp")]
        for name in names:
            photo(0).save(photos / name)
        given = ("--landmarks", table(tmp_path / "t.csv", [(name, FACE) for name in names]), "--size", 16)
        assert zsem(photos, *given, "--out", tmp_path / "all")[0] == 0
        assert zsem(photos, *given, "--out", tmp_path / "some", "--limit", 4)[0] == 0
        assert len(files(tmp_path / "all")) == 24
        assert files(tmp_path / "some") == ["1.png", "10.png", "4.png", "7.png"]

    def test_a_table_is_not_replaced_by_a_part_of_itself(self, zsem, tmp_path):
        for name in ("a.png", "b.png"):
            photo(0).save(tmp_path / name)
        out = tmp_path / "out"
        out.mkdir()
        given = table(out / "landmarks.csv", [("a.png", FACE), ("b.png", FACE)])
        before = given.read_bytes()
        assert zsem(tmp_path, "--out", out, "--landmarks", given, "--limit", 1)[0] == 0
        assert given.read_bytes() == before


class TestNetworks:
    def spotted(self, number: int) -> Image.Image:
        image = photo(number, 416, 416)
        image.paste("white", (206, 174, 210, 178))
        return image

    def test_finds_cuts_and_names_what_has_no_face(self, zsem, tmp_path, models, monkeypatch):
        photos = tmp_path / "photos"
        photos.mkdir()
        photo(0).save(photos / "none.png")
        self.spotted(1).save(photos / "face.png")
        code, text, err = zsem(photos, "--out", tmp_path / "out", "--models", models, "--size", 48, "--json")
        assert (code, err) == (0, "")
        figures = json.loads(text)
        assert (figures["n"], figures["faces"], figures["without_face"], figures["skipped"]) == (2, 1, ["none.png"], [])
        assert files(tmp_path / "out") == ["face.png", "landmarks.csv"]
        rows = list(csv.reader((tmp_path / "out/landmarks.csv").read_text().splitlines()))
        assert rows[0] == list(HEADER)
        assert [row[0] for row in rows[1:]] == ["face.png"]
        points = np.array(rows[1][1:], dtype=float).reshape(5, 2)
        assert np.array_equal(
            pixels(tmp_path / "out/face.png"), np.asarray(align(self.spotted(1), ffhq_quad(points), 48))
        )
        e, m = points[1] - points[0], points[3:].mean(0) - points[:2].mean(0)
        assert np.hypot(*m) / np.hypot(*e) == pytest.approx(1, abs=0.02)  # as in POINTS, but for the quantisation

        monkeypatch.setenv("ZSEM_FACE_MODELS", str(models))
        code, text, _ = zsem(photos, "--out", tmp_path / "again", "--size", 48)
        assert code == 0
        assert text.splitlines() == ["no face: none.png", f"faces: 1, from 2 images, in {tmp_path / 'again'}"]
        given = tmp_path / "out/landmarks.csv"
        assert zsem(photos, "--out", tmp_path / "third", "--size", 48, "--landmarks", given)[0] == 0
        for folder in ("again", "third"):
            assert np.array_equal(pixels(tmp_path / folder / "face.png"), pixels(tmp_path / "out/face.png"))

    def test_nothing_found_is_said_and_nothing_is_written(self, zsem, tmp_path, models):
        for number in range(3):
            photo(number).save(tmp_path / f"{number}.png")
        code, out, err = zsem(tmp_path, "--out", tmp_path / "out", "--models", models)
        assert (code, out) == (2, "")
        assert err == f"zsem: nothing to cut out of {tmp_path}: no face: 0.png, and 2 more\n"
        assert not (tmp_path / "out").exists()


class TestMistakes:
    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            ([], "`npm pack @vladmandic/face-api@1.7.15`"),
            ([], "or give the points of the faces yourself with `--landmarks FILE`"),
            (
                ["--models", "nowhere"],
                "there is no folder nowhere with the weights of the face networks; get the",
            ),
            (["--models", "a", "--landmarks", "b"], "leave one of the two out"),
            (["--landmarks", "nowhere.csv"], "nowhere.csv cannot be read: No such file"),
            (["--landmarks", "b", "--size", "8"], "--size must be between 16 and 2048, not 8"),
            (["--landmarks", "b", "--limit", "0"], "--limit must be at least 1, not 0"),
        ],
    )
    def test_one_sentence(self, zsem, tmp_path, monkeypatch, args, sentence):
        monkeypatch.chdir(tmp_path)
        photo(0).save("a.png")
        code, out, err = zsem("a.png", "--out", "out", *args)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert sentence in err
        assert files(tmp_path) == ["a.png"]

    def test_a_folder_without_images(self, zsem, tmp_path):
        (tmp_path / "attributes.csv").write_text("path,smile\n")
        code, _, err = zsem(tmp_path, "--out", tmp_path / "out", "--landmarks", "b")
        assert (code, err) == (2, f"zsem: {tmp_path} holds no images\n")


def test_photos_are_never_overwritten(zsem, tmp_path):
    photo = tmp_path / "a.png"
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(photo)
    before = photo.read_bytes()
    given = table(tmp_path / "points.csv", [("a.png", FACE)])
    for source in (tmp_path, photo):
        code, _, error = zsem(source, "--out", tmp_path, "--landmarks", given)
        assert (code, photo.read_bytes()) == (2, before)
        assert "choose another folder" in error
