"""Diffusion autoencoders: sizes for a CPU, and those of the paper (DiffAE, supplement A, table 6)."""

from __future__ import annotations

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.training.loop import Loop
from zsem.training.presets.preset import Preset


def published(
    size: int, channels: int, mult: tuple[int, ...], encoder_mult: tuple[int, ...], batch_size: int, millions: int
) -> Preset:
    """A configuration of the paper: eps-prediction with L_simple, Adam 1e-4 without warm-up, dropout 0.1."""
    return Preset(
        model=DiffusionAutoencoder.Config(
            image_size=size,
            z_dim=512,
            prediction="eps",
            unet=UNet.Config(channels=channels, channel_mult=mult, dropout=0.1),
            encoder=SemanticEncoder.Config(channels=channels, channel_mult=encoder_mult),
        ),
        objective=AutoencoderObjective.Config(weighting="simple", timesteps="uniform"),
        training=Loop.Config(batch_size=batch_size, learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.0, warmup=0),
        recommended_images=millions * 10**6,
    )


PATCHED = 0.1
"""sigma_data of small networks of patches: less grain in samples (`python -m experiments.sigma_data`)."""
NANO_LOOP = Loop.Config(learning_rate=1e-3, warmup=100, checkpoint_minutes=1.0, picture_minutes=1.0)
"""The loop of all models of 32 px, whose training takes minutes."""

AUTOENCODERS: dict[str, Preset] = {
    "nano": Preset(
        model=DiffusionAutoencoder.Config(
            image_size=32,
            z_dim=64,
            sigma_data=PATCHED,
            unet=UNet.Config(channels=64, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=256, patch=2),
            encoder=SemanticEncoder.Config(
                channels=32, channel_mult=(1, 2, 4), attention_resolutions=(), patch=2, pool=2, num_res_blocks=1
            ),
        ),
        objective=AutoencoderObjective.Config(),
        training=NANO_LOOP,
        recommended_images=300_000,
    ),
    "tiny": Preset(
        model=DiffusionAutoencoder.Config(
            image_size=64,
            z_dim=128,
            sigma_data=PATCHED,
            unet=UNet.Config(channels=96, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=384, patch=4),
            encoder=SemanticEncoder.Config(
                channels=32, channel_mult=(1, 2, 4, 4), attention_resolutions=(8,), patch=2, pool=4
            ),
        ),
        objective=AutoencoderObjective.Config(),
    ),
    "paper64": published(64, 64, (1, 2, 4, 8), (1, 2, 4, 8, 8), batch_size=128, millions=72),
    "paper128": published(128, 128, (1, 1, 2, 3, 4), (1, 1, 2, 3, 4, 4), batch_size=128, millions=130),
    "paper256": published(256, 128, (1, 1, 2, 2, 4, 4), (1, 1, 2, 2, 4, 4, 4), batch_size=64, millions=90),
}
