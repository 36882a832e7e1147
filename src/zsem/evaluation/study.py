"""What all chapters of an evaluation share: the model, the images, how much is measured, what is made once."""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from zsem.data.images import ImageSet
from zsem.evaluation.attributes import independent, labelled_part, learnable
from zsem.evaluation.bench_edit import semantics_of
from zsem.evaluation.keeping import fingerprint
from zsem.metrics.samples import Distribution, features_of
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import DiffusionModel
from zsem.models.judge import Judge
from zsem.models.prior import Prior
from zsem.models.walking import Walking
from zsem.nets import features, perceptual
from zsem.semantics.attributes import Semantics
from zsem.semantics.probes import is_binary
from zsem.training.judging import ITERATIONS, binary_attributes, judge_for
from zsem.values import draws
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError

BATCH = 50
"""Images that networks see at once."""
SHOWN = 6
"""Pictures in a row: they can be told apart on a telephone."""
REAL = "real held-out images"
"""What everything that is made is compared with."""
SEVERAL = 4
"""Images with each label that an attribute needs to be edited."""
ORDER_DRAW = 3


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much of everything is measured; fewer where there are not so many images."""

    reconstructed: int = 200
    """held-out images that are encoded and decoded by every codec"""
    long_ddim: int = 100
    """steps of a DDIM row beside those of equal cost; 0 for none"""
    z_judged: int = 500
    """held-out images on which the use of z is judged"""
    varied: int = 100
    """held-out images whose z is decoded with other noise, and whose noise with another z"""
    labels: int = 1000
    """labelled training images that attributes are learned from"""
    probed: int = 2000
    """held-out images that probes are judged on"""
    edited: int = 100
    """held-out images that each attribute is flipped in"""
    edited_attributes: int = 12
    """attributes that are flipped"""
    judge_iterations: int = ITERATIONS
    """length of the training of the network that judges edits"""
    made: int = 1000
    """images made from nothing, and held-out images beside them"""
    reference: int = 5000
    """training images that they are compared with"""
    conditions: int = 4
    """attributes that images are asked to have"""
    conditioned: int = 100
    """images made for each of them"""
    morphs: int = 100
    """pairs of held-out images that are morphed into each other"""
    searched: int = 20_000
    """training images among which copies are looked for"""


QUICK = Amounts(
    reconstructed=24, long_ddim=0, z_judged=96, varied=24, labels=500, probed=500, edited=12, edited_attributes=4,
    judge_iterations=100, made=160, reference=600, conditions=2, conditioned=24, morphs=24,
)  # fmt: skip
"""For a few minutes on two processor cores."""


class Study:
    """A model and images, and what several chapters need of them."""

    def __init__(
        self,
        model: DiffusionAutoencoder | DiffusionModel,
        images: ImageSet,
        *,
        run: str,
        data: str,
        folder: Path,
        amounts: Amounts = Amounts(),
        seed: int = 0,
        classes: tuple[str, ...] = (),
        prior: Prior | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """images: training and held-out ones of the model's size, labels of all kinds as attributes.

        run, data: what the user calls them. folder: for what is kept. classes: attributes of which every image has at
        most one. prior: of the autoencoder's codes.
        Raises ZsemError where no images are held out, or the prior is another model's.
        """
        if prior is not None and isinstance(model, DiffusionAutoencoder):
            model.check_prior(prior)
        self.model, self.images, self.run, self.data = model, images, run, data
        self.folder, self.amounts, self.seed, self.say = folder, amounts, seed, say
        self.classes, self.prior = classes, prior
        held_out = images.held_out()
        order = draws.generator(seed, ORDER_DRAW).permutation(len(held_out)).tolist()
        self.held_out, self.training = held_out.subset(order), images.split("train")

    @property
    def autoencoder(self) -> DiffusionAutoencoder:
        """The model, in chapters that are of autoencoders."""
        assert isinstance(self.model, DiffusionAutoencoder)
        return self.model

    @property
    def has_z(self) -> bool:
        """Whether the model has semantic codes."""
        return isinstance(self.model, DiffusionAutoencoder)

    def some(self, number: int, first: int = 0) -> ImageSet:
        """Held-out images in an order of chance, the same for all chapters."""
        return self.held_out.subset(range(len(self.held_out))[first : first + number])

    def origin(self) -> dict[str, Any]:
        """What all results depend on, JSON-able."""
        return {
            "model": self.model.stamp, "images": fingerprint(self.images), "seed": self.seed,
            "prior": None if self.prior is None else self.prior.stamp,
            "networks": [self.perceptual is not None, self.has_features],
        }  # fmt: skip

    # codes and pixels, of models with z and without

    def encode(self, images: ImageSet, **settings: Any) -> Codes:
        """Codes with noise."""
        if isinstance(self.model, DiffusionAutoencoder):
            return self.model.encode(images, batch_size=BATCH, **settings)
        return self.model.invert(images, classes=self.classes_of(images), batch_size=BATCH, **settings)

    def decode(self, codes: Codes, images: ImageSet | None = None) -> Float[Tensor, "n c h w"]:
        """Pixels of codes; of models that are told classes, those of `images`."""
        if isinstance(self.model, DiffusionAutoencoder):
            return self.model.decode(codes, batch_size=BATCH)
        return self.model.decode(codes, classes=None if images is None else self.classes_of(images), batch_size=BATCH)

    def classes_of(self, images: ImageSet) -> Tensor | None:
        """Indices of classes as a conditional model knows them; None for all others."""
        assert isinstance(self.model, DiffusionModel)
        return images.classes if self.model.config.conditional else None

    def fresh(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """Images of semantic codes, with fresh noise, walked as samples are."""
        codes = self.autoencoder.codes(z)
        return self.autoencoder.decode(codes, seed=self.seed, batch_size=BATCH, walking=Walking()).clamp(-1, 1)

    def floats(self, images: ImageSet) -> Float[Tensor, "n c h w"]:
        """Stored pixels in [-1, 1]."""
        return self.model.config.intensity.normalise(images.pixels)

    def pictures(self, images: ImageSet | Tensor) -> UInt8[Tensor, "n c h w"]:
        """The first images as pictures to look at."""
        floats = self.floats(images) if isinstance(images, ImageSet) else images
        return self.model.display(floats[:SHOWN])

    # networks that judge

    @functools.cached_property
    def perceptual(self) -> perceptual.STLPIPS | None:
        """ST-LPIPS on grey or RGB pictures, where its weights are installed and the images have such channels."""
        known = importlib.util.find_spec(perceptual.PACKAGE) is not None and self.images.channels in {1, 3}
        return perceptual.load_stlpips() if known else None

    @property
    def without_perceptual(self) -> str:
        """Why there is no perceptual distance."""
        if self.images.channels not in {1, 3}:
            return "The perceptual distance is left out: it is one of grey or RGB images."
        return (
            "The perceptual distance (ST-LPIPS) is left out, because its weights are not installed: "
            "pip install 'zsem[metrics]'."
        )

    @property
    def has_features(self) -> bool:
        """Whether distributions of images can be compared."""
        return importlib.util.find_spec(features.PACKAGE) is not None and self.images.channels in {1, 3}

    @functools.cached_property
    def reference(self) -> Distribution:
        """Training images, as made ones are compared with them."""
        network = features.load_efficientnet_lite0()
        pixels = self.training.limit(self.amounts.reference).pixels
        normalise = self.model.config.intensity.normalise
        real = features_of(network, (normalise(part).clamp(-1, 1) for part in pixels.split(BATCH)))
        return Distribution(network, real, seed=self.seed)

    @functools.cached_property
    def learnable(self) -> list[str]:
        """Attributes that can be learned from so many labels and judged on held-out images."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the chapter about attributes says which are left out
            try:
                train, test = labelled_part(self.training), labelled_part(self.images.held_out())
                return learnable(train.limit(self.amounts.labels), test.limit(self.amounts.probed))
            except ZsemError:  # none at all
                return []

    @functools.cached_property
    def semantics(self) -> Semantics:
        """What the 0/1 attributes mean, learned from training images."""
        images = replace(self.images, attributes={name: self.images.attributes[name] for name in self.binary})
        classes = [name for name in self.classes if name in self.binary]
        return semantics_of(self.autoencoder, images, self.amounts.labels, classes=classes)

    @functools.cached_property
    def binary(self) -> list[str]:
        """0/1 attributes with several images of both labels, among those to learn from and those held out."""
        names = [name for name in self.learnable if is_binary(self.images.attributes[name])]
        if not names:
            return []
        parts = (labelled_part(self.training).limit(self.amounts.labels), self.held_out)
        return [
            name
            for name in names
            if all(independent(part, part.attributes[name] == kind) >= SEVERAL for part in parts for kind in (0, 1))
        ]

    @functools.cached_property
    def judge(self) -> Judge:
        """A network that tells 0/1 attributes from pixels, trained on the labelled training images; kept."""
        attributes = {name: self.images.attributes[name] for name in self.binary}
        images = binary_attributes(replace(self.images, attributes=attributes))
        # a folder for each, because a judge that goes on from a shorter training is not the same
        folder = self.folder / "judge" / f"{fingerprint(images)[:8]}-{self.amounts.judge_iterations}"
        return judge_for(images, folder, iterations=self.amounts.judge_iterations, say=self.say)

    # what is made from nothing

    @functools.cached_property
    def made(self) -> Mapping[str, Float[Tensor, "n c h w"]]:
        """Images of every source that there is, in [-1, 1], as many of each as there are held-out ones at most."""
        number = min(self.amounts.made, len(self.held_out))
        if isinstance(self.model, DiffusionModel):
            classes = None
            if (known := self.model.config.unet.num_classes) is not None:
                classes = [i % known for i in range(number)]
            made = self.model.sample(number, classes=classes, seed=self.seed, batch_size=BATCH)
            return {"samples": made.clamp(-1, 1)}
        sources = {}
        if self.prior is not None:
            made = self.model.sample(number, prior=self.prior, seed=self.seed, batch_size=BATCH)
            sources["samples"] = made.clamp(-1, 1)
        z = self.model.encode(self.some(number), noise=False, batch_size=BATCH).z
        return {**sources, "+ autoencoding": self.fresh(z)}
