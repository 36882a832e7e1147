"""Diffusion models and classifiers of noisy images as they were published, and in sizes for a CPU: data alone.

What the papers average their weights with (an exponential decay of 0.9999) is the loop's own average here, and ADM's
gradients are clipped at a norm of 1, which its code does not do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from zsem.diffusion.schedule import NoiseSchedule
from zsem.models.classifier import ClassifierObjective, NoisyClassifier
from zsem.models.denoising import DiffusionObjective
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import HalfUNet, UNet
from zsem.training.loop import Loop
from zsem.training.presets.autoencoders import AUTOENCODERS, NANO_LOOP, PATCHED
from zsem.training.presets.preset import Preset

COSINE, LINEAR = NoiseSchedule.Config(kind="cosine"), NoiseSchedule.Config()
ADAM: Mapping[str, Any] = {"betas": (0.9, 0.999), "weight_decay": 0.0, "warmup": 0}
HYBRID = DiffusionObjective.Config(weighting="simple", timesteps="uniform", vlb_weight=0.001)
"""L_simple + 0.001 L_vlb (improved DDPM, eq. 16): the latter teaches the learned range of the variance."""
ADM: Mapping[str, Any] = {"attention_resolutions": (32, 16, 8), "num_head_channels": 64}
LEVELS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4)}
"""Widths of ADM's levels by the size of the images, as its code has them (guided-diffusion, create_model)."""


def adm(size: int, batch_size: int, learning_rate: float, iterations: int, **changes: Any) -> Preset:
    """A class-conditional model of ImageNet (ADM, appendix I, table 11); `changes` to the network of 256 pixels.

    Its weights were never told of no class, so that it is to be guided by a classifier.
    """
    net: dict[str, Any] = {"channels": 256, "channel_mult": LEVELS[size], "num_classes": 1000, **ADM, **changes}
    return Preset(
        model=DiffusionModel.Config(
            image_size=size, prediction="eps", learned_range=True, class_dropout=0.0,
            schedule=COSINE if size == 64 else LINEAR,
            unet=UNet.Config(**net, embed_channels=4 * net["channels"]),
        ),
        objective=HYBRID, training=Loop.Config(**ADAM, batch_size=batch_size, learning_rate=learning_rate),
        recommended_images=batch_size * iterations,
    )  # fmt: skip


def adm_classifier(
    size: int, depth: int, batch_size: int, learning_rate: float, weight_decay: float, iterations: int
) -> Preset:
    """A classifier that guides the model of that size (ADM, appendix I, table 12).

    Its rate falls to zero all the way: linearly, as there, where the training has a time limit.
    """
    return Preset(
        model=NoisyClassifier.Config(
            image_size=size, num_outputs=1000, schedule=COSINE if size == 64 else LINEAR,
            net=HalfUNet.Config(channels=128, channel_mult=LEVELS[size], num_res_blocks=depth, **ADM),
        ),
        objective=ClassifierObjective.Config(timesteps="uniform"),
        training=Loop.Config(
            **{**ADAM, "weight_decay": weight_decay}, batch_size=batch_size, learning_rate=learning_rate,
            decay_share=1.0, validation_images=512,
        ),
        recommended_images=batch_size * iterations,
    )  # fmt: skip


DIFFUSION: dict[str, Preset] = {
    "nano": Preset(
        model=DiffusionModel.Config(image_size=32, sigma_data=PATCHED, unet=AUTOENCODERS["nano"].model.unet),
        objective=DiffusionObjective.Config(),
        training=NANO_LOOP,
        recommended_images=300_000,
    ),
    "tiny": Preset(
        model=DiffusionModel.Config(image_size=64, sigma_data=PATCHED, unet=AUTOENCODERS["tiny"].model.unet),
        objective=DiffusionObjective.Config(),
        recommended_images=500_000,
    ),
    # DDPM, appendix B; warm-up and padding are those of its code
    "ddpm-cifar": Preset(
        model=DiffusionModel.Config(
            image_size=32, prediction="eps", class_dropout=0.0,
            unet=UNet.Config(
                channels=128, channel_mult=(1, 2, 2, 2), attention_resolutions=(16,), dropout=0.1,
                time="add", resample="conv_tail", norm_eps=1e-6, frequency_shift=1,
            ),
        ),
        objective=DiffusionObjective.Config(weighting="simple", timesteps="uniform"),
        training=Loop.Config(**{**ADAM, "warmup": 5000}, batch_size=128, learning_rate=2e-4, clip=1.0),
        recommended_images=128 * 800_000,
    ),
    # ADM was not trained on such small images. Width, levels, blocks, attention, dropout and optimiser are those that
    # improved DDPM publishes for CIFAR-10, the rest (heads, resampling, timesteps) is as in ADM at 64 pixels
    "adm-32": Preset(
        model=DiffusionModel.Config(
            image_size=32, prediction="eps", learned_range=True, class_dropout=0.0, schedule=COSINE,
            unet=UNet.Config(
                channels=128, channel_mult=(1, 2, 2, 2), num_res_blocks=3, attention_resolutions=(16, 8),
                num_head_channels=64, dropout=0.3,
            ),
        ),
        objective=HYBRID, training=Loop.Config(**ADAM, batch_size=128, learning_rate=1e-4),
        recommended_images=128 * 500_000,
    ),
    "adm-64": adm(64, 2048, 3e-4, 540_000, channels=192, num_res_blocks=3, dropout=0.1),
    "adm-128": adm(128, 256, 1e-4, 4_360_000, num_heads=4, num_head_channels=None),
    "adm-256": adm(256, 256, 1e-4, 1_980_000),
}  # fmt: skip

CLASSIFIERS: dict[str, Preset] = {
    "nano": Preset(
        model=NoisyClassifier.Config(
            image_size=32, num_outputs=10,
            net=HalfUNet.Config(
                channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_resolutions=(8, 4),
                num_head_channels=32, embed_channels=128, patch=2,
            ),
        ),
        objective=ClassifierObjective.Config(),
        training=replace(NANO_LOOP, weight_decay=0.05, validation_images=512),
        recommended_images=300_000,
    ),
    "tiny": Preset(
        model=NoisyClassifier.Config(
            image_size=64, num_outputs=10,
            net=HalfUNet.Config(
                channels=32, channel_mult=(1, 2, 4), num_res_blocks=1, attention_resolutions=(8, 4),
                num_head_channels=32, embed_channels=128, patch=4,
            ),
        ),
        objective=ClassifierObjective.Config(),
        training=Loop.Config(learning_rate=1e-3, weight_decay=0.05, validation_images=512),
        recommended_images=500_000,
    ),
    "adm-64": adm_classifier(64, 4, 1024, 6e-4, 0.2, 300_000),
    "adm-128": adm_classifier(128, 2, 256, 3e-4, 0.05, 300_000),
    "adm-256": adm_classifier(256, 2, 256, 3e-4, 0.05, 500_000),
}  # fmt: skip
