import json

import pytest

from zsem.hspace.intervals import Curves


@pytest.fixture(scope="module")
def run(small_model, tmp_path_factory):
    return small_model.save(tmp_path_factory.mktemp("run"))


def test_intervals_are_measured_and_drawn(zsem, run, image_folder):
    told = ("hspace", "intervals", run, image_folder, "--limit", 4, "--steps", 4, "--json")
    code, out, err = zsem(*told, "--t-edit", 500, "--t-boost", 100)
    assert code == 0, err
    figures = json.loads(out)
    assert (figures["t_edit"], figures["t_boost"], figures["rule"], figures["distance"]) == (500, 100, "given", "rms")
    assert (run / "hspace" / "intervals.png").is_file()
    curves = Curves.load(run / "hspace" / "intervals.json")
    assert curves.images == 4 and len(curves.timesteps) == 4


def test_what_cannot_be_is_said_in_a_sentence(zsem, run, image_folder, tmp_path):
    for more, says in ((("--limit", 0), "at least 1"), (("--distance", "stlpips"), "is for RGB images of 64 px")):
        code, _, err = zsem("hspace", "intervals", run, image_folder, "--out", tmp_path, *more)
        assert code == 2 and says in err
    code, out, _ = zsem("hspace")
    assert code == 0 and "zsem hspace intervals" in out
