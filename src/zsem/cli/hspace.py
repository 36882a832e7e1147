"""`zsem hspace`: what is done in the bottleneck of a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report, progress
from zsem.cli.images import Choice, open_images
from zsem.values.errors import ZsemError

if TYPE_CHECKING:
    from torch import Tensor

    from zsem.models.imaging import ImageModel


@dataclass(frozen=True, kw_only=True)
class HspaceIntervals(Command):
    """Measure where an edit in h should end (t_edit) and quality boosting begin (t_boost), as Asyrp does (section 3.3).

    Images are inverted; at every noise level their distance to the predicted x0 and to the state is taken. Writes
    intervals.json and intervals.png. The thresholds are shares of the curves' ends: the published ones are of LPIPS
    with AlexNet at 256 px alone.
    """

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained diffusion model or autoencoder, its name on the Hugging Face hub, or a foreign checkpoint"""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """folder or archive of images; with classes for a model that is conditional on them"""
    out: Annotated[str | None, arg(metavar="DIR")] = None
    """folder for the files, in place of RUN/hspace"""
    split: Choice = "train"
    """which of the images"""
    limit: int = 100
    """only so many images"""
    steps: int = 100
    """noise levels"""
    codec: Literal["ddim", "exact"] = "ddim"
    """how images are inverted; the curves of exact swing from level to level"""
    distance: Literal["auto", "stlpips", "rms"] = "auto"
    """between images: ST-LPIPS, or the root mean square; auto takes ST-LPIPS for RGB images of 64 px and more"""
    similarity: float = 1.0
    """cosine of the embeddings of what is edited and what it becomes; the smaller, the longer the edit"""
    t_edit: float | None = None
    """this t_edit, in place of the rule's"""
    t_boost: float | None = None
    """this t_boost, in place of the rule's"""

    def run(self) -> Report:
        from zsem import api
        from zsem.hspace.figures import intervals_figure, save_figure
        from zsem.hspace.intervals import measure, phases
        from zsem.models.autoencoder import DiffusionAutoencoder
        from zsem.models.base import find_model
        from zsem.models.diffusion import DiffusionModel
        from zsem.models.imaging import ImageModel

        if self.limit < 1:
            raise ZsemError(f"--limit must be at least 1, not {self.limit}")
        model = api.load(self.model, kind=ImageModel)
        assert isinstance(model, DiffusionModel | DiffusionAutoencoder)
        name, distance = distance_for(model, self.distance)
        images = open_images(self.data, model, split=self.split, limit=self.limit)
        told: dict[str, Any] = {"codec": self.codec, "steps": self.steps}
        if isinstance(model, DiffusionModel) and model.config.conditional:
            told["classes"] = images.classes
        with progress("inverting") as done:
            curves = measure(model, images, distance, name=name, progress=done, **told)
        out = find_model(self.model) / "hspace" if self.out is None else Path(self.out)
        file = curves.save(out / "intervals.json")
        chosen = phases(curves, similarity=self.similarity, t_edit=self.t_edit, t_boost=self.t_boost)
        picture = save_figure(intervals_figure(curves, chosen), out / "intervals.png")
        figures = {"n": curves.images, "distance": name, **asdict(chosen), "out": str(out)}
        row = {"distance": name, "rule": chosen.rule, "t_edit": f"{chosen.t_edit:g}", "t_boost": f"{chosen.t_boost:g}"}
        return Report(figures=figures, rows=[row], notes=[f"curves of {curves.images} images in {file} and {picture}"])


def distance_for(model: ImageModel, wanted: str) -> tuple[str, Callable[[Tensor, Tensor], Tensor]]:
    """A distance of images [b, c, h, w] in [-1, 1] and its name. ZsemError: ST-LPIPS is none for such images."""
    from zsem.nets.perceptual import SMALLEST, load_stlpips

    channels, *size = model.image_shape
    fits = channels == 3 and min(size) >= SMALLEST
    if wanted == "stlpips" and not fits:
        raise ZsemError(f"ST-LPIPS is for RGB images of {SMALLEST} px and more: leave out --distance, or give rms")
    if wanted == "rms" or not fits:
        return "rms", lambda x, y: (x - y).square().mean(dim=(1, 2, 3)).sqrt()
    return "stlpips-alex", load_stlpips().to(model.device)
