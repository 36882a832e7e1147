"""The VAE and the GAN that people compare with, in sizes for a CPU."""

from __future__ import annotations

from zsem.models.gan import GanObjective, GenerativeAdversarialNetwork
from zsem.models.vae import VaeObjective, VariationalAutoencoder
from zsem.nets.gan import Discriminator
from zsem.nets.vae import Decoder
from zsem.training.loop import Loop
from zsem.training.presets.autoencoders import AUTOENCODERS, NANO_LOOP
from zsem.training.presets.preset import Preset

VAES: dict[str, Preset] = {
    "nano": Preset(
        model=VariationalAutoencoder.Config(image_size=32, z_dim=64),
        objective=VaeObjective.Config(),
        training=NANO_LOOP,
        recommended_images=300_000,
    ),
    "tiny": Preset(
        model=VariationalAutoencoder.Config(
            image_size=64,
            z_dim=128,
            encoder=AUTOENCODERS["tiny"].model.encoder,
            decoder=Decoder.Config(channel_mult=(1, 2, 2, 2)),
        ),
        objective=VaeObjective.Config(),
        training=Loop.Config(learning_rate=1e-3),
    ),
}

# No momentum, as is usual for GANs; their gradients at 32 px have norms of 5 to 40, which the clip is not to touch
GAN_LOOP = Loop.Config(learning_rate=1e-3, betas=(0.0, 0.99), weight_decay=0.0, clip=100.0)
GANS: dict[str, Preset] = {
    "nano": Preset(
        model=GenerativeAdversarialNetwork.Config(image_size=32, z_dim=64),
        objective=GanObjective.Config(),
        training=GAN_LOOP,
        recommended_images=1_000_000,
    ),
    "tiny": Preset(
        model=GenerativeAdversarialNetwork.Config(
            image_size=64,
            generator=Decoder.Config(channel_mult=(1, 2, 2, 2)),
            discriminator=Discriminator.Config(channel_mult=(1, 2, 2, 2)),
        ),
        objective=GanObjective.Config(),
        training=GAN_LOOP,
        recommended_images=1_000_000,
    ),
}
