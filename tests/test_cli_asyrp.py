"""`zsem directions --method asyrp`, and edits with what it learns, run as people run them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zsem.data.images import load_images
from zsem.hspace.edits import asymmetric, symmetric
from zsem.hspace.engine import Shifts
from zsem.hspace.intervals import Curves
from zsem.models.judge import Judge
from zsem.models.shift import load_shifts
from zsem.nets.encoder import SemanticEncoder
from zsem.values.direction import Direction, save_directions

QUICK = ("--space", "h", "--method", "asyrp", "--steps", 3, "--limit", 8)


@pytest.fixture(scope="module")
def model(random_diffusion):
    return random_diffusion(16)


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    return model.save(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def data(image_folder, tmp_path_factory):
    """Discs that know how red they are, a few of them held out, and the red ones alone and the others alone."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["path,red"]
    for i, path in enumerate(sorted(image_folder.glob("*.png"))):
        split = "val" if i % 4 == 0 else "train"
        picture = Image.open(path)
        red = int(np.asarray(picture, dtype=float)[..., 0].mean() > 127)
        for place in (folder / "all" / split, folder / ("red" if red else "other")):
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / path.name)
        rows.append(f"{split}/{path.name},{red}")
    (folder / "all" / "attributes.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def judge(data, tmp_path_factory):
    """A network of random weights that at least takes red discs for redder than others."""
    torch.manual_seed(0)
    net = SemanticEncoder.Config(channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool=2)
    made = Judge(Judge.Config(attributes=("red",), image_size=16, net=net)).eval()
    logits = [made.logits(load_images(data / name, size=16)).mean() for name in ("other", "red")]
    if logits[1] < logits[0]:
        with torch.no_grad():
            made.net.project.weight.neg_()
    return made.save(tmp_path_factory.mktemp("judge") / "judge")


@pytest.fixture(scope="module")
def few(image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    for name in ("00", "01"):
        (folder / f"{name}.png").write_bytes((image_folder / f"{name}.png").read_bytes())
    return folder


@pytest.fixture(scope="module")
def learned(run, data, judge, tmp_path_factory):
    """The folder of an f_t for red."""
    from zsem.cli import main

    out = tmp_path_factory.mktemp("asyrp")
    options = ("--attribute", "red", "--embedding", f"classifier:{judge}", "--iterations", 3, "--t-edit", 200)
    assert main([str(part) for part in ("directions", run, data / "all", *QUICK, *options, "--out", out)]) == 0
    return out / "red-asyrp"


def pictures(folder: Path):
    return load_images([folder / "00.png", folder / "01.png"], size=16).pixels


def test_it_says_what_it_has_learned(zsem, run, data, judge, model, tmp_path):
    options = ("--attribute", "red", "--embedding", f"classifier:{judge}", "--iterations", 2, "--out", tmp_path)
    code, out, _ = zsem("directions", run, data / "all", *QUICK, *options, "--json")
    assert code == 0
    (row,) = json.loads(out)["directions"]
    assert row["name"] == "red" and row["iterations"] == 2 and row["folder"] == "red-asyrp" and row["images"] == 8
    assert -1 <= row["cosine"] <= 1 and row["change"] > 0 and "progress" in row
    (shift,) = load_shifts(tmp_path / "red-asyrp")
    assert shift.model == model.stamp and shift.config.steps == 3
    # edits end where noise of 3 / 256 of the side for each pixel is left
    u = float(model.schedule.u(torch.tensor(row["t_edit"], dtype=torch.float64)))
    assert u == pytest.approx(3 * 16 / 256, rel=0.05)


def test_edits_are_those_of_the_function(zsem, run, model, few, learned, tmp_path):
    (shift,) = load_shifts(learned)
    code, _, err = zsem("edit", run, few, "--direction", f"{learned}=1.5", "--steps", 3, "--out", tmp_path / "a")
    assert code == 0, err
    grid = model.grid(3, forced=[200])
    codes = model.invert(pictures(few), grid=grid)
    wanted = symmetric(model, codes, Shifts([(1.5, shift)]), gain=3, interval=(200, 999))
    assert torch.equal(pictures(tmp_path / "a"), model.config.intensity.restore(wanted))
    options = ("--mode", "asymmetric", "--steps", 6, "--out", tmp_path / "b")
    code, _, err = zsem("edit", run, few, "--direction", f"{learned}=1", *options)
    assert code == 0, err
    codes = model.invert(pictures(few), codec="ddim", grid=model.grid(6, "ddim", forced=[200]))
    # it was learned in the symmetric process: its strength is that of one step
    wanted = asymmetric(model, codes, Shifts([(1.0, shift)]), t_edit=200)
    assert torch.equal(pictures(tmp_path / "b"), model.config.intensity.restore(wanted))


def test_strength_zero_gives_the_images_back(zsem, run, few, learned, tmp_path):
    code, _, _ = zsem("edit", run, few, "--direction", f"{learned}=0", "--steps", 3, "--out", tmp_path)
    assert code == 0 and torch.equal(pictures(tmp_path), pictures(few))


def test_it_adds_up_with_directions(zsem, run, model, few, learned, tmp_path):
    (shift,) = load_shifts(learned)
    vector = torch.randn(*model.bottleneck_shape, generator=torch.Generator().manual_seed(1))
    hat = Direction(space="h", vector=vector, unit="one", name="hat", model=model.stamp)
    file = save_directions(tmp_path / "hat.safetensors", [hat])
    code, out, err = zsem(
        "edit", run, few, "--direction", f"{learned}=1", f"{file}=-2", "--steps", 3, "--out", tmp_path / "a", "--json"
    )
    assert code == 0, err
    assert json.loads(out)["unit"] == "trained strength of red, one"
    codes = model.invert(pictures(few), grid=model.grid(3, forced=[200]))
    wanted = symmetric(model, codes, Shifts([(1.0, shift), (-2.0 / 3, hat)]), gain=3, interval=(200, 999))
    assert torch.equal(pictures(tmp_path / "a"), model.config.intensity.restore(wanted))


def test_curves_beside_the_model_say_where_the_edit_ends(zsem, model, data, judge, tmp_path):
    run = model.save(tmp_path / "model")
    timesteps = (0.0, 400.0, 999.0)
    Curves(
        timesteps=timesteps, x0=(0.0, 0.261, 0.9), x_t=(0.0, 0.5, 1.0), distance="rms", image_size=16, model=model.stamp
    ).save(run / "hspace" / "intervals.json")
    options = ("--attribute", "red", "--embedding", f"classifier:{judge}", "--iterations", 1, "--json")
    code, out, err = zsem("directions", run, data / "all", *QUICK, *options)
    assert code == 0, err
    # .29 of the end, times the cosine .9 of what is edited and what it becomes: .2349 of .261 on the way to 400
    assert json.loads(out)["directions"][0]["t_edit"] == 360
    assert (run / "hspace" / "directions" / "red-asyrp" / "config.json").exists()


def test_two_folders_show_an_autoencoder_which_way(zsem, small_model, data, tmp_path):
    run = small_model.save(tmp_path / "model")
    options = ("--attribute", "red", "--iterations", 1, "--json", "--out", tmp_path / "out")
    sets = f"images:{data / 'other'},{data / 'red'}"
    code, out, err = zsem("directions", run, data / "all", *QUICK, *options, "--embedding", sets)
    assert code == 0, err
    assert json.loads(out)["directions"][0]["progress"] is not None
    code, _, err = zsem("directions", run, data / "all", *QUICK, *options)
    assert code == 2 and "zsem attributes" in err  # its own z, of which nothing was learned


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--attribute", "red"), "say --embedding"),
        (("--embedding", "classifier:{judge}"), "say which with --attribute"),
        (("--attribute", "red", "--embedding", "lpips:x"), "write autoencoder:RUN"),
        (("--attribute", "hat", "--embedding", "classifier:{judge}"), "knows no 'hat'"),
        (("--attribute", "red", "--embedding", "clip:x"), "--texts SOURCE TARGET goes with"),
        (("--attribute", "red,hat", "--embedding", "images:a,b"), "says one thing"),
        (("--attribute", "red", "--embedding", "images:a"), "names one set"),
        (("--attribute", "red", "--embedding", "classifier:{run}"), "is no classifier"),
        (("--attribute", "red", "--embedding", "classifier:{judge}", "--minutes", 1, "--iterations", 1), "either"),
        (("--attribute", "red", "--embedding", "classifier:{judge}", "--mask", "a.png"), "--mask means nothing"),
    ],
)
def test_mistakes(zsem, run, data, judge, tmp_path, args, sentence):
    given = [str(part).format(judge=judge, run=run) for part in args]
    code, _, err = zsem("directions", run, data / "all", *QUICK, *given, "--out", tmp_path)
    assert code == 2 and sentence in err


def test_its_options_are_for_it_alone(zsem, run, data, tmp_path):
    options = ("--space", "h", "--method", "mean", "--variant", "published", "--out", tmp_path)
    code, _, err = zsem("directions", run, data / "all", *options)
    assert code == 2 and "--variant means nothing for mean" in err
