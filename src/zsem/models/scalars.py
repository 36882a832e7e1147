"""Scalars of images that guide samples (`SemanticGuidance`, `DiffusionModel.sample`): the more the better.

Each says how close an image comes to a wanted one, or to a text: in content, in style, or to CLIP (2112.05744, whose
networks are trained on noisy images; these see the predicted x0 instead, as in 2302.07121).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from zsem.data.intensity import EIGHT_BITS
from zsem.diffusion.guidance import Scalar
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import evaluation
from zsem.models.inputs import Images, Inputs, read_inputs
from zsem.nets.clip import CLIP, load_clip
from zsem.values.errors import ZsemError


def content(model: DiffusionAutoencoder, image: Images) -> Scalar:
    """Minus the mean squared difference to the z of an image, each number of z in units of its deviation `z_std`.

    0 where z is the same, about -2 for two images that have nothing to do with each other. It is no cosine, which would
    take a z of another length for the same, and the decoder does not: -d/2 of it is the logarithm of a normal density.
    Images of another size are resized to that of the model.
    Raises ZsemError for more than one image; the scalar does for other channels than the model's.
    """
    z = model.encode(only(model.read(image)).part(slice(1)), noise=False).z.to(model.device)

    def closeness(x0: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        return -((model.encoder(seen(model, x0)) - z) / model.z_std).square().mean(dim=1)

    return closeness


def style(model: DiffusionAutoencoder, image: Images, *, levels: int = 2) -> Scalar:
    """Minus the squared difference of Gram matrices to those of an image, relative to their size, mean over levels.

    A Gram matrix says which features of the encoder's first `levels` occur together, and not where (1508.06576, eq. 3):
    colours and textures. 0 where they are the same, about -1 where there is nothing of them.
    Images of another size are resized to that of the model.
    Raises ZsemError for more than one image, or levels that do not exist; the scalar does for other channels.
    """
    most = len(model.config.encoder.channel_mult)
    if not 1 <= levels <= most:
        raise ZsemError(f"the encoder has levels 1..{most}, not {levels}")
    pixels = only(model.read(image)).part(slice(1))
    with evaluation(model):
        wanted = [gram(h) for h in model.encoder.level_maps(seen(model, pixels), levels)]

    def closeness(x0: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        maps = model.encoder.level_maps(seen(model, x0), levels)
        parts = [relative(gram(h), g) for h, g in zip(maps, wanted, strict=True)]
        return -torch.stack(parts).mean(dim=0)

    return closeness


def clip_similarity(network: CLIP | str | Path, *, text: str | None = None, image: Images | None = None) -> Scalar:
    """Cosine between what CLIP says of images and of a text or another image, -1..1.

    network: CLIP that is loaded already, on the device of the samples, or the path of its folder (see `load_clip`).
    Raises ZsemError where the path has no CLIP model, or for more than one image; ValueError for both text and image,
        or neither.
    """
    if (text is None) == (image is None):
        raise ValueError("give a text or an image")
    clip = network if isinstance(network, CLIP) else load_clip(network)
    if text is not None:
        wanted = clip.text(text)
    else:
        assert image is not None
        with torch.no_grad():
            wanted = clip(only(read_inputs(image, (3, clip.size, clip.size), EIGHT_BITS)).part(slice(1)))[0]
    return lambda x0: clip(x0) @ wanted


def only(inputs: Inputs) -> Inputs:
    """The same, if it is one image."""
    if len(inputs.pixels) != 1:
        raise ZsemError(f"a scalar compares with one image, not with {len(inputs.pixels)}: name one file")
    return inputs


def seen(model: DiffusionAutoencoder, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Images as the encoder sees them: of the model's size, padded, on its device."""
    return model.pad(resized(x0.to(model.device), model.image_shape, "autoencoder"))


def resized(x0: Float[Tensor, "b c h w"], shape: tuple[int, int, int], what: str) -> Float[Tensor, "b c h2 w2"]:
    """Images of the size of another network's, differentiably; ZsemError: `what` is for other channels than theirs."""
    channels, *sides = shape
    if x0.shape[1] != channels:
        raise ZsemError(f"the {what} is for images of {channels} channels, these have {x0.shape[1]}: take another")
    if list(x0.shape[2:]) == sides:
        return x0
    return F.interpolate(x0, size=sides, mode="bilinear", antialias=True, align_corners=False)


def gram(h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Mean products of every two channels over all places."""
    flat = h.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def relative(g: Float[Tensor, "b c c"], wanted: Float[Tensor, "1 c c"]) -> Float[Tensor, " b"]:
    """Squared difference of matrices to the wanted one, as a share of its own square."""
    return (g - wanted).square().sum(dim=(1, 2)) / wanted.square().sum()
