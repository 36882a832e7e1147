import numpy as np
import pytest

from zsem.data.landmarks import HEADER, read_landmarks, write_landmarks
from zsem.values import draws
from zsem.values.errors import ZsemError

FACE = np.array([[80, 80], [120, 80], [100, 100], [85, 120], [115, 120]], dtype=float)
ROW = "80,80,120,80,100,100,85,120,115,120"


def test_what_is_written_is_read_to_the_last_bit(tmp_path):
    rng = draws.generator(21, 0)
    faces = [(path, FACE + rng.normal(0, 3, (5, 2))) for path in ("b/1.jpg", 'a, "b".png', "b/1.jpg", "é.png")]
    write_landmarks(tmp_path / "faces.csv", faces)
    read = read_landmarks(tmp_path / "faces.csv")
    assert {path: len(points) for path, points in read.items()} == {"b/1.jpg": 2, 'a, "b".png': 1, "é.png": 1}
    again = [read["b/1.jpg"][0], read['a, "b".png'][0], read["b/1.jpg"][1], read["é.png"][0]]
    for (_, points), found in zip(faces, again, strict=True):
        assert np.array_equal(points, found)
    assert (tmp_path / "faces.csv").read_text().splitlines()[0] == ",".join(HEADER)


@pytest.mark.parametrize(
    "text",
    [
        f"a.png,{ROW}\n",
        f"Path,{','.join(HEADER[1:])}\r\na.png,{ROW}\r\n\r\n",
        f"\ufeff a.png , {ROW.replace(',', ' , ')}",
        f".\\a.png,{ROW.replace('80', '8e1')}\n,,,,,,,,,,\n",
    ],
)
def test_spellings(tmp_path, text):
    (tmp_path / "faces.csv").write_bytes(text.encode())
    read = read_landmarks(tmp_path / "faces.csv")
    assert list(read) == ["a.png"]
    assert np.array_equal(read["a.png"], [FACE])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no landmarks: write a row of path,left_eye_x,left_eye_y,"),
        (",".join(HEADER), "has no landmarks"),
        ("a.png,1,2,3", r"faces\.csv, line 1 has 4 cells, not 11: path,left_eye_x"),
        (f"a.png,{ROW}\nb.png,{ROW[:-1]}x", r"line 2 has a cell that is no number \(.*'12x'\)"),
        (f"a.png,{ROW[:-3]}", r"line 1 has a cell that is no number \(.*''\)"),
        (f"a.png,{ROW[:-3]}nan", "line 1: the landmarks are not all finite"),
        ("a.png,120,80,80,80,100,100,115,120,85,120", "line 1: the landmarks make no face: their order is left eye"),
        ("a.png,\xe9".encode("latin-1"), "cannot be read as a comma-separated table in UTF-8"),
    ],
)
def test_what_is_wrong_with_the_table(tmp_path, text, sentence):
    (tmp_path / "faces.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ZsemError, match=sentence):
        read_landmarks(tmp_path / "faces.csv")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ZsemError, match=r"faces\.csv cannot be read: No such file or directory"):
        read_landmarks(tmp_path / "faces.csv")
