"""Latent DDIMs: a size for a CPU, and those of the paper (DiffAE, supplement A.1, table 7)."""

from __future__ import annotations

from dataclasses import replace

from zsem.models.denoising import LatentObjective
from zsem.models.prior import LatentDiffusion
from zsem.nets.latent import LatentNet
from zsem.training.loop import Loop
from zsem.training.presets.preset import Preset
from zsem.values.errors import ZsemError

# Codes are small: all of the loop's time goes into the network, and mirrored codes are none
LATENT_LOOP = Loop.Config(
    batch_size=256, learning_rate=1e-3, betas=(0.9, 0.999), warmup=100, flip=False, ema_others=(), ema_snapshots=0,
    checkpoint_minutes=1.0, validation_minutes=1.0, validation_images=1024,
)  # fmt: skip


def published(layers: int, batch_size: int, weight_decay: float, millions: int) -> Preset:
    """A configuration of the paper: hidden layers of 2,048, L1 on eps, AdamW 1e-4 without warm-up."""
    return Preset(
        model=LatentDiffusion.Config(net=LatentNet.Config(layers=layers, hidden=2048)),
        objective=LatentObjective.Config(timesteps="uniform"),
        training=replace(LATENT_LOOP, batch_size=batch_size, learning_rate=1e-4, weight_decay=weight_decay, warmup=0),
        recommended_images=millions * 10**6,
    )


# The loss of "small" is that of the paper, L1 of eps, but its network predicts v: x0 from a predicted eps is wrong by
# sigma / alpha times as much, 55 at the noisiest level, and a training of minutes does not bring that near 0
PRIORS: dict[str, Preset] = {
    "small": Preset(
        model=LatentDiffusion.Config(net=LatentNet.Config(layers=10, hidden=512), prediction="v"),
        objective=LatentObjective.Config(),
        training=LATENT_LOOP,
        recommended_images=1_000_000,
    ),
    "paper": published(10, 256, 0.01, 100),
    "paper20": published(20, 2048, 0.0, 2000),
}


def find_prior(name: str) -> Preset:
    """A latent DDIM's preset by its name in `PRIORS`. Raises ZsemError where there is none."""
    if name not in PRIORS:
        raise ZsemError(f"there is no preset {name!r} of a latent DDIM; choose one of {', '.join(PRIORS)}")
    return PRIORS[name]
