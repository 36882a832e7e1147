"""What diffusion models and autoencoders, which differ in how they are told things, are to those who edit them."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.diffusion import Classes, DiffusionModel
from zsem.models.inputs import Images
from zsem.values.codes import Codes
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

Editable = DiffusionModel | DiffusionAutoencoder
"""Models with a bottleneck to edit in."""


def invert(model: Editable, images: Images, *, classes: Classes = None, **settings: Any) -> Codes:
    """Codes of images with their noise; `settings` and errors as for `encode` and `invert` of the models.

    classes: of a model that is conditional on them; ZsemError where an autoencoder is given some.
    """
    if isinstance(model, DiffusionModel):
        return model.invert(images, classes=classes, **settings)
    if classes is not None:
        raise ZsemError("an autoencoder is told z and no class: leave out the classes")
    return model.encode(images, **settings)


def decode(model: Editable, codes: Codes, *, classes: Classes = None, **settings: Any) -> Float[Tensor, "n c h w"]:
    """Pixels of codes; `settings` and errors as for `decode` of the models. An autoencoder needs no classes."""
    if isinstance(model, DiffusionModel):
        return model.decode(codes, classes=classes, **settings)
    return model.decode(codes, **settings)


def condition_of(model: Editable, codes: Codes, classes: Classes) -> Condition:
    """What the network is told of one batch of codes."""
    if isinstance(model, DiffusionModel):
        return model.condition(classes, len(codes))
    return Condition(z=codes.z.to(model.device))


def condition_for(model: Editable, x0: Float[Tensor, "b c h w"], classes: Classes) -> Condition:
    """What the network is told of images as it sees them: padded, on its device."""
    if isinstance(model, DiffusionModel):
        return model.condition(classes, len(x0))
    return Condition(z=model.encoder(x0))
