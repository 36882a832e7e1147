"""What says which way an edit should go: an embedding of images, and a direction in it (Asyrp, section 3.3).

The paper has CLIP and two texts. Any network that turns images into vectors will do: the encoder of a diffusion
autoencoder with the weight of a probe, a classifier with that of its last layer, or two sets of images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.classifier import NoisyClassifier
from zsem.models.judge import Judge
from zsem.models.scalars import resized, seen
from zsem.nets.clip import CLIP
from zsem.semantics.attributes import Method, Semantics
from zsem.values.errors import ZsemError

ModuleT = TypeVar("ModuleT", bound=nn.Module)
CLOSENESS = 0.9
"""Cosine of two texts that say nearly the same: "face" and "smiling face" in CLIP (the paper's table 2)."""
TEMPLATES = (
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.", "a {} in a video game.",
    "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
"""The seven that CLIP's authors found to do as well as all eighty of theirs."""


@runtime_checkable
class Embedding(Protocol):
    """Images in [-1, 1] to vectors, differentiable in the images: a vector says what an image shows."""

    def __call__(self, images: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b d"]: ...


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Which way, and how far, images are to go in an embedding.

    embedding: of images, with no gradient of its own weights.
    direction: a unit vector in it.
    name: what an edit this way changes, e.g. "smile".
    reach: how far an edit of amount 1 goes along it, in units of the embedding; None where nothing says so.
    closeness: cosine between what is and what shall be, which weighs how much of the image is to stay: 0..1.
    """

    embedding: Embedding
    direction: Float[Tensor, " d"]
    name: str
    reach: float | None = None
    closeness: float = CLOSENESS

    def progress(self, change: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """How far changes of embeddings go along the direction."""
        return change @ self.direction.to(change)

    def measured(
        self, without: Float[Tensor, "n c h w"], having: Float[Tensor, "m c h w"], *, batch_size: int = 64
    ) -> Goal:
        """The same with the reach that lies between two sets of images, in [-1, 1].

        Raises ZsemError where the second is not further along the direction than the first.
        """
        means = [mean_embedding(self.embedding, images, batch_size=batch_size) for images in (without, having)]
        reach = float(self.progress((means[1] - means[0])[None]))
        if not reach > 0:
            raise ZsemError(f"images with {self.name} are not further towards it than those without: take another")
        return replace(self, reach=reach)


class ZEmbedding(nn.Module):
    """Normalised z_sem of another diffusion autoencoder, of images of any size."""

    def __init__(self, model: DiffusionAutoencoder) -> None:
        super().__init__()
        self.model = frozen(model)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """z with mean 0 and standard deviation 1 over that model's training images. ZsemError: other channels."""
        return (self.model.encoder(seen(self.model, images)) - self.model.z_mean) / self.model.z_std


class ClassifierEmbedding(nn.Module):
    """What the last layer of a judge or a classifier reads of clean images of any size."""

    def __init__(self, model: Judge | NoisyClassifier) -> None:
        super().__init__()
        self.model = frozen(model)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features. Raises ZsemError for images of other channels than the classifier's."""
        x = resized(images.to(self.model.device), self.model.config.image_shape, "classifier")
        if isinstance(self.model, Judge):
            return self.model.net.features(x)
        return self.model.net.features(x, x.new_zeros(len(x)))


def towards_attribute(
    model: DiffusionAutoencoder, semantics: Semantics, attribute: str, *, method: Method = "logistic"
) -> Goal:
    """Towards an attribute in another autoencoder's z, by what `zsem attributes` has learned of it.

    method: logistic = the weight of the probe; mean, constrained = see `Semantics.direction`. The reach is that between
        the mean codes with and without it, where they are known.
    Raises ZsemError for an attribute that was not learned, or semantics of another model.
    """
    if semantics.model != model.stamp:
        raise ZsemError(f"these attributes belong to model {semantics.model}, this is {model.stamp}: learn them again")
    centres = semantics[attribute].centres
    unit = F.normalize(semantics.direction(attribute, method).vector, dim=0).to(model.device)
    goal = Goal(embedding=ZEmbedding(model), direction=unit, name=attribute)
    return goal if centres is None else replace(goal, reach=float(goal.progress(centres.diff(dim=0))))


def towards_text(
    clip: CLIP, source: str, target: str, *, name: str | None = None, templates: Sequence[str] = TEMPLATES
) -> Goal:
    """From one text to another in CLIP, e.g. from "face" to "smiling face" (the paper's equation 7).

    templates: sentences with {} for the text, whose differences are averaged; the paper has 79. Their cosine, of the
        texts alone, is the closeness.
    Raises ZsemError for equal texts, and those that are too long.
    """
    differences = [clip.text(form.format(target)) - clip.text(form.format(source)) for form in templates]
    mean = torch.stack(differences).mean(dim=0)
    if not float(mean.norm()) > 0:
        raise ZsemError(f"{source!r} and {target!r} are the same to CLIP: say what the edit changes")
    closeness = float(clip.text(source) @ clip.text(target))
    return Goal(embedding=clip, direction=F.normalize(mean, dim=0), name=name or target, closeness=closeness)


def towards_class(model: Judge | NoisyClassifier, wanted: str | int, *, instead: str | int | None = None) -> Goal:
    """Towards a class in the features that a classifier's last layer reads: by its weight there.

    wanted: an attribute of a judge; name or index of a class.
    instead: the class to go away from; None = all others (a judge's attributes exclude nothing).
    Raises ZsemError for a class that does not exist.
    """
    if isinstance(model, Judge):
        names, layer = model.config.attributes, model.net.project
    else:
        names = model.config.class_names or tuple(map(str, range(model.config.num_outputs)))
        layer = model.net.pool.project
    weight = layer.weight.detach()
    index = _index(names, wanted)
    direction = weight[index]
    if instead is not None:
        direction = direction - weight[_index(names, instead)]
    elif isinstance(model, NoisyClassifier):
        direction = direction - weight.mean(dim=0)
    return Goal(embedding=ClassifierEmbedding(model), direction=F.normalize(direction, dim=0), name=names[index])


def towards_images(
    embedding: Embedding,
    sources: Float[Tensor, "n c h w"],
    targets: Float[Tensor, "m c h w"],
    *,
    name: str,
    batch_size: int = 64,
) -> Goal:
    """From some images to others, in [-1, 1]: the difference of their mean embeddings, which is the reach as well.

    Raises ZsemError where there is none.
    """
    means = [mean_embedding(embedding, images, batch_size=batch_size) for images in (sources, targets)]
    step = means[1] - means[0]
    if not float(step.norm()) > 0:
        raise ZsemError("the two sets of images are the same to this embedding: give others")
    return Goal(embedding=embedding, direction=F.normalize(step, dim=0), name=name, reach=float(step.norm()))


def mean_embedding(
    embedding: Embedding, images: Float[Tensor, "n c h w"], *, batch_size: int = 64
) -> Float[Tensor, " d"]:
    """Mean embedding of images, float32. Raises ZsemError where there are none."""
    if not len(images):
        raise ZsemError("a direction lies between images, and one of the two sets is empty: name others")
    with torch.no_grad():
        return torch.cat([embedding(part) for part in images.split(batch_size)]).mean(dim=0)


def frozen(module: ModuleT) -> ModuleT:
    """A copy in inference, whose weights take no gradient: of images that go through it one is wanted all the same."""
    return copy.deepcopy(module).eval().requires_grad_(False)


def _index(names: Sequence[str], wanted: str | int) -> int:
    """The place of a class by name or number."""
    index = names.index(wanted) if wanted in names else int(wanted) if str(wanted).isdecimal() else -1
    if not 0 <= index < len(names):
        raise ZsemError(f"the classifier knows no {wanted!r}: choose one of {', '.join(names)}")
    return index
