"""Where to edit and where to boost: t_edit and t_boost from curves of a perceptual distance (Asyrp, section 3.3)."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from zsem.diffusion.guidance import Steered
from zsem.hspace.collect import batches, invert_through, of_rows
from zsem.hspace.editable import Editable, condition_of
from zsem.models.diffusion import Classes
from zsem.models.imaging import Progress, evaluation
from zsem.models.inputs import Images
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole
from zsem.values.prediction import Condition, Denoiser, Prediction

Distance = Callable[[Tensor, Tensor], Tensor]
"""From two batches of images in [-1, 1], [b, c, h, w], to a distance for each pair, [b]."""

FORMAT, FORMAT_VERSION = "zsem.intervals", 1
LPIPS_ALEX, PUBLISHED_SIZE = "lpips-alex", 256
"""The distance and the size of images that the published thresholds are of."""
EDIT, BOOST = 0.33, 1.2
"""Those thresholds: distance of the image to x0 predicted at t_edit (section 3.3), and to x_t at t_boost (3.4)."""
EDIT_SHARE, BOOST_SHARE = 0.29, 0.85
"""The same as shares of the distance at the last timestep, for any other distance or size: what the thresholds are in
the five curves that were published with the code, 0.25 .. 0.34 and 0.80 .. 0.90."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Mean distance, over a set, of images to what their inversion makes of them at every noise level.

    timesteps: of the levels, the cleanest first.
    x0, x_t: distance to x0 predicted there, and to the state; x0_std, x_t_std: standard deviation over images.
    distance: name of it, "lpips-alex" for the published one. image_size: shorter side, pixels. images: how many.
    model: stamp of the model, "" where it is unknown.
    """

    timesteps: tuple[float, ...]
    x0: tuple[float, ...]
    x_t: tuple[float, ...]
    x0_std: tuple[float, ...] = ()
    x_t_std: tuple[float, ...] = ()
    distance: str
    image_size: int
    images: int = 0
    model: str = ""

    @property
    def published(self) -> bool:
        """Whether the published thresholds are of such curves."""
        return self.distance == LPIPS_ALEX and self.image_size == PUBLISHED_SIZE

    def save(self, path: str | Path) -> Path:
        """Write a small JSON file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}
        write_whole(path, (json.dumps(about, indent=1) + "\n").encode())
        return path

    @staticmethod
    def load(path: str | Path) -> Curves:
        """Read what `save` wrote. Raises ZsemError where the file is missing, damaged or foreign."""
        try:
            about = json.loads(Path(path).read_text("utf-8"))
        except FileNotFoundError:
            raise ZsemError(f"{path} is missing: measure curves with `zsem hspace intervals`") from None
        except ValueError:
            raise ZsemError(f"{path} is damaged: it is not JSON; measure the curves again") from None
        names = {field.name for field in fields(Curves)}
        if not isinstance(about, dict) or about.get("format") != FORMAT or not names <= about.keys():
            raise ZsemError(f"{path} holds no curves of zsem")
        if about["version"] != FORMAT_VERSION:
            raise ZsemError(f"{path} has version {about['version']}; this zsem reads version {FORMAT_VERSION}")
        try:
            return TypeAdapter(Curves).validate_python({name: about[name] for name in names})
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise ZsemError(f"{path} is damaged at {where}; measure the curves again") from None


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Where an edit ends (t >= t_edit is edited) and quality boosting begins (t < t_boost), and by which rule."""

    t_edit: float | int
    t_boost: float | int
    rule: Literal["published", "portable", "given"]


def phases(
    curves: Curves | None = None,
    *,
    similarity: float | int = 1.0,
    t_edit: float | int | None = None,
    t_boost: float | int | None = None,
) -> Phases:
    """t_edit and t_boost: those that are given, and the rest from curves.

    t_edit is the first timestep at which the distance to x0 reaches 0.33 `similarity`, t_boost the first at which that
    to x_t reaches 1.2 (published, for LPIPS-Alex at 256 px alone); with other curves 29 % `similarity` and 85 % of
    their last values. Between levels they are interpolated, and the next whole timestep is taken. Where the curve has
    t_boost above t_edit, as with models that are told z and soon know the image, it is t_edit.
    similarity: cosine of the embeddings of source and target, 1 - d(E_T(source), E_T(target)); the less alike they
        are, the longer the interval. 0.9 is CLIP's of "face" and "smiling face".
    Raises ZsemError where something is neither given nor known, a given t_boost lies above t_edit, or the similarity is
        none.
    """
    given = t_edit is not None and t_boost is not None
    if curves is None and not given:
        raise ZsemError("t_edit and t_boost take curves: measure them with `zsem hspace intervals`, or give both")
    if not 0 < similarity <= 1:
        raise ZsemError(f"the similarity of source and target lies above 0 and up to 1, not at {similarity:g}")
    if curves is not None:
        edit, boost = (EDIT, BOOST) if curves.published else (EDIT_SHARE * curves.x0[-1], BOOST_SHARE * curves.x_t[-1])
        t_edit = first_reaching(curves.timesteps, curves.x0, edit * similarity) if t_edit is None else t_edit
        if t_boost is None:
            t_boost = min(t_edit, first_reaching(curves.timesteps, curves.x_t, boost))
    assert t_edit is not None and t_boost is not None
    if not 0 <= t_boost <= t_edit:
        raise ZsemError(f"boosting must begin where the edit has ended: t_boost {t_boost:g} <= t_edit {t_edit:g}")
    rule = "given" if given or curves is None else "published" if curves.published else "portable"
    return Phases(t_edit=float(t_edit), t_boost=float(t_boost), rule=rule)


def first_reaching(timesteps: Sequence[float | int], values: Sequence[float | int], threshold: float | int) -> float:
    """The first whole timestep at which a curve, cleanest first, has reached a threshold; ZsemError: it never does."""
    for i, value in enumerate(values):
        if value < threshold:
            continue
        if i == 0:
            return float(timesteps[0])
        share = (threshold - values[i - 1]) / (value - values[i - 1])
        between = timesteps[i - 1] + share * (timesteps[i] - timesteps[i - 1])
        return float(math.ceil(round(between, 6)))
    raise ZsemError(f"the curve never reaches {threshold:.3g}: its largest value is {max(values):.3g}")


def measure(
    model: Editable,
    images: Images,
    distance: Distance,
    *,
    name: str,
    codec: Literal["ddim", "exact"] = "ddim",
    steps: int = 100,
    classes: Classes = None,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Curves:
    """Curves over images on their way to noise.

    distance: of two batches of images; states and predictions are given as they are, not clipped. name: of it.
    codec: "ddim", which the paper has, or "exact" (O-BELM), whose curves swing from level to level.
    steps: noise levels (published: 1000), one evaluation of the network and two of the distance each.
    Other arguments and errors as for `collect`.
    """
    inputs = model.read(images)
    if len(inputs) == 0:
        raise ZsemError("curves are means over images: give some")
    found: dict[float, list[Tensor]] = {}
    first = float(model.grid(steps, codec).t[0])
    for rows in batches(len(inputs), batch_size):
        own, told = inputs[rows], of_rows(classes, rows)
        watch = _Watch(model, own.part(slice(None)).to(model.device), distance)
        codes = invert_through(model, own, told, watch, codec=codec, steps=steps)
        if first not in watch.found:  # DDIM ends there and asks nothing
            assert codes.noise is not None
            with evaluation(model):
                t = torch.full((len(own),), first, device=model.device)
                watch(codes.noise.x_T.to(model.device), t, condition_of(model, codes, told))
        for t, values in watch.found.items():
            found.setdefault(t, []).append(values)
        if progress is not None:
            progress(rows.stop, len(inputs))
    levels = sorted(t for t in found if t in set(model.grid(steps, codec).t[:-1].tolist()))
    values = torch.stack([torch.cat(found[t], dim=1) for t in levels])  # [levels, 2, n]
    means, deviations = values.mean(2).tolist(), values.std(2, correction=0).tolist()
    return Curves(
        timesteps=tuple(levels), x0=tuple(m[0] for m in means), x_t=tuple(m[1] for m in means),
        x0_std=tuple(d[0] for d in deviations), x_t_std=tuple(d[1] for d in deviations),
        distance=name, image_size=min(model.image_shape[1:]), images=len(inputs), model=model.stamp,
    )  # fmt: skip


def read_published(folder: str | Path, name: str) -> Curves:
    """The curves of a data set ("celeba", "afhq", ..) from a checkout of the paper's code (github: Asyrp_official).

    folder: the checkout, or its folder `utils`. Raises ZsemError where files are missing or damaged.
    """
    folder = Path(folder)
    place = folder / "utils" if (folder / "utils").is_dir() else folder
    x0, x_t = (_table(place / f"{name}_LPIPS_distance_{which}.tsv") for which in ("x0_t", "x"))
    levels = sorted(x0.keys() & x_t.keys())
    if not levels:
        raise ZsemError(f"the curves of {name} in {place} have no timestep in common: fetch the checkout again")
    return Curves(
        timesteps=tuple(levels), x0=tuple(x0[t] for t in levels), x_t=tuple(x_t[t] for t in levels),
        distance=LPIPS_ALEX, image_size=PUBLISHED_SIZE, images=100,
    )  # fmt: skip


def _table(path: Path) -> dict[float, float]:
    """A file of timesteps and values."""
    try:
        with path.open(newline="") as file:
            return {float(t): float(value) for t, value in csv.reader(file, delimiter="\t")}
    except FileNotFoundError:
        raise ZsemError(f"{path} is missing: name a checkout of Asyrp_official, and a data set of its utils") from None
    except ValueError:
        raise ZsemError(f"{path} is damaged: it has not two numbers in every line; fetch it again") from None


class _Watch(Steered):
    """A denoiser that keeps, by timestep, how far its x0 and its state are from images: [2, b]."""

    def __init__(self, model: Editable, images: Float[Tensor, "b c h w"], distance: Distance) -> None:
        super().__init__(model.denoiser)
        self._model, self._images, self._distance = model, images, distance
        self.found: dict[float, Float[Tensor, "2 b"]] = {}

    def __call__(self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition) -> Prediction:
        """One evaluation of the network, and two of the distance."""
        denoiser: Denoiser = self._model.denoiser
        prediction = denoiser(x_t, t, cond)
        if float(t[0]) not in self.found:
            seen = [self._model.crop(x).float() for x in (prediction.x0, x_t)]
            apart = torch.stack([self._distance(self._images, x) for x in seen])
            self.found[float(t[0])] = apart.detach().double().cpu()
        return prediction
