import math
from dataclasses import replace

import pytest
import torch

from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.hspace.figures import intervals_figure, save_figure, theorem_figure
from zsem.hspace.intervals import Curves, Phases, first_reaching, measure, phases, read_published
from zsem.hspace.theorem import published_levels
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition


def rms(x, y):
    return (x - y).square().mean(dim=(1, 2, 3)).sqrt()


def published(**changes):
    """Curves that rise evenly: 0.33 at 300 and 1.2 at 600."""
    levels = tuple(float(t) for t in range(1000))
    made = Curves(
        timesteps=levels, x0=tuple(0.0011 * t for t in levels), x_t=tuple(0.002 * t for t in levels),
        distance="lpips-alex", image_size=256, images=3,
    )  # fmt: skip
    return replace(made, **changes)


def checkout(folder):
    """The layout of the reference's files: a checkout with utils, a timestep missing near the end."""
    (folder / "utils").mkdir()
    for which, slope in (("x0_t", 0.0011), ("x", 0.002)):
        lines = [f"{t}\t{slope * t}" for t in range(1, 1000) if t != 998]
        (folder / "utils" / f"celeba_LPIPS_distance_{which}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_published_rule_takes_the_first_timestep_that_reaches_its_threshold(tmp_path):
    curves = read_published(checkout(tmp_path), "celeba")
    assert len(curves.timesteps) == 998 and curves.published and read_published(tmp_path / "utils", "celeba") == curves
    for similarity in (1.0, 0.9, 0.4425, 0.123):
        wanted = next(t for t in range(1, 1000) if 0.0011 * t >= 0.33 * similarity)
        with_boost = phases(curves, similarity=similarity, t_boost=0)
        assert with_boost == Phases(t_edit=wanted, t_boost=0, rule="published")
    assert phases(curves).t_boost == phases(curves).t_edit == 300  # the curve of x_t says 600
    with pytest.raises(ZsemError, match="boosting must begin"):
        phases(curves, t_boost=301)
    assert phases(published(x_t=tuple(0.0075 * t for t in range(1000)))).t_boost == 160
    with pytest.raises(ZsemError, match="is missing: name a checkout"):
        read_published(tmp_path, "church")
    (tmp_path / "utils" / "celeba_LPIPS_distance_x.tsv").write_text("1\tx\n")
    with pytest.raises(ZsemError, match="is damaged"):
        read_published(tmp_path, "celeba")


def test_other_distances_and_sizes_have_shares_of_the_end():
    steep = tuple(min(0.02 * t, 2.0) for t in range(1000))
    for other in (published(distance="rms", x_t=steep), published(image_size=64, x_t=steep)):
        found = phases(other)
        assert found.rule == "portable"
        assert found == Phases(t_edit=math.ceil(0.29 * 999), t_boost=85, rule="portable")
        assert phases(other, similarity=0.5, t_boost=7).t_edit == math.ceil(0.145 * 999)


def test_what_is_given_wins():
    assert phases(t_edit=500, t_boost=200) == Phases(t_edit=500, t_boost=200, rule="given")
    assert phases(published(), t_edit=500, t_boost=200) == Phases(t_edit=500, t_boost=200, rule="given")
    with pytest.raises(ZsemError, match="take curves"):
        phases(t_edit=500)
    with pytest.raises(ZsemError, match="similarity"):
        phases(published(), similarity=0)


def test_between_levels_curves_are_interpolated():
    assert first_reaching([0, 100, 200], [0.0, 0.5, 1.0], 0.6) == 120
    assert first_reaching([0, 100, 200], [0.0, 0.5, 1.0], 0.603) == 121
    assert first_reaching([5, 100], [0.3, 0.5], 0.2) == 5
    with pytest.raises(ZsemError, match="never reaches"):
        first_reaching([0, 1], [0, 1], 2)


@pytest.mark.parametrize("codec", ["exact", "ddim"])
def test_curves_are_distances_on_the_way_to_noise(model, model_noise, codec):
    images = model_noise[:3].clamp(-1, 1)
    curves = measure(model, images, rms, name="rms", codec=codec, steps=5, batch_size=2)
    levels = model.grid(5, codec).t[:-1].flip(0)
    assert curves.timesteps == tuple(levels.tolist()) and curves.images == 3 and curves.model == model.stamp
    assert not curves.published and curves.x_t[0] < 0.1 < curves.x_t[-1]
    codes = model.invert(images, codec=codec, steps=5)
    assert codes.noise is not None
    with torch.no_grad():
        x_T = codes.noise.x_T
        x0 = model.denoiser(x_T.double(), levels[-1:].expand(3), Condition()).x0
    apart = rms(images, x_T)
    assert curves.x_t[-1] == pytest.approx(float(apart.mean()), rel=1e-4)
    assert curves.x_t_std[-1] == pytest.approx(float(apart.std(correction=0)), rel=1e-3)
    assert curves.x0[-1] == pytest.approx(float(rms(images, x0.float()).mean()), rel=1e-3)


def test_curves_are_stored_and_drawn(tmp_path):
    curves = published(x0_std=(0.1,) * 1000)
    assert Curves.load(curves.save(tmp_path / "a" / "curves.json")) == curves
    with pytest.raises(ZsemError, match="is missing"):
        Curves.load(tmp_path / "none.json")
    for content, says in (("{", "damaged"), ("{}", "no curves"), ("[]", "no curves")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ZsemError, match=says):
            Curves.load(tmp_path / "bad.json")
    spoilt = (tmp_path / "a" / "curves.json").read_text().replace('"images": 3', '"images": "many"')
    (tmp_path / "bad.json").write_text(spoilt)
    with pytest.raises(ZsemError, match="damaged at images"):
        Curves.load(tmp_path / "bad.json")
    chosen = Phases(t_edit=300, t_boost=100, rule="given")
    figure = intervals_figure(curves, chosen)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["t_edit = 300"].get_xdata()[0] == 300
    assert tuple(lines["image to predicted x0"].get_ydata()) == curves.x0
    assert save_figure(figure, tmp_path / "b" / "one.png").read_bytes().startswith(b"\x89PNG")


def test_the_figure_of_the_theorem():
    grid = TimeGrid.from_levels(NoiseSchedule(), t=published_levels(1000), clean=True)
    lines = theorem_figure(grid).axes[0].lines
    assert [line.get_label() for line in lines if not line.get_label().startswith("_")] == [
        "in x0 alone", "in both, eta = 0", "in both, eta = 1",
    ]  # fmt: skip
    assert float(lines[0].get_ydata()[0]) == pytest.approx(1.010, abs=1e-3)
    assert float(lines[1].get_ydata()[0]) == pytest.approx(0.0102, abs=1e-4)
