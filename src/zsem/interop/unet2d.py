"""diffusers' UNet2DModel in two halves, as it is in memory, for edits in its bottleneck.

A folder of diffusers becomes a model of ours (`zsem.interop.diffusers`), which has the same halves and everything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d import UNet2DModel


@dataclass(frozen=True, kw_only=True)
class Context:
    """What `down` leaves for `up`: the embedding of time and class, and the skip connections, first to last."""

    embedding: Float[Tensor, "b e"]
    skips: tuple[Float[Tensor, "b _c _h _w"], ...]


class SplitUNet2D(nn.Module):
    """A UNet2DModel whose forward is cut where Asyrp edits: after the middle block (2210.10960, figure 4).

    A `Bottleneck`: `NetworkDenoiser(SplitUNet2D(unet), schedule, "eps")` is edited as a model of ours is. Its weights
    are those of the network that it is made of.
    """

    def __init__(self, network: UNet2DModel) -> None:
        """Raises ZsemError for a network without a middle, or whose forward is more than its two halves."""
        super().__init__()
        config: Any = network.config
        odd = {
            "it has no middle block": network.mid_block is None,
            "it has skip blocks (of score SDEs)": any(hasattr(block, "skip_conv") for block in network.down_blocks),
            "it divides its answer by the noise level": config.time_embedding_type == "fourier",
            "it centres its input itself": config.center_input_sample,
            "its classes are timesteps": config.class_embed_type == "timestep",
        }
        for why, holds in odd.items():
            if holds:
                raise ZsemError(f"this UNet2DModel cannot be edited in its bottleneck: {why}")
        self.network = network

    def down(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> tuple[Float[Tensor, "b c2 h2 w2"], Context]:
        """From x_t to h and what `up` needs beside it.

        Raises ZsemError where the network is told classes and does not know them, or the other way round.
        """
        net: Any = self.network
        embedding = net.time_embedding(net.time_proj(t).to(x_t.dtype))
        if (net.class_embedding is None) != (cond.classes is None):
            raise ZsemError("this UNet2DModel is conditional on classes, or is not: tell it classes accordingly")
        if cond.classes is not None:
            embedding = embedding + net.class_embedding(cond.classes)
        h = net.conv_in(x_t)
        skips = (h,)
        for block in net.down_blocks:
            h, more = block(hidden_states=h, temb=embedding)
            skips += more
        return net.mid_block(h, embedding), Context(embedding=embedding, skips=skips)

    def up(self, h: Float[Tensor, "b c h w"], context: Context) -> Float[Tensor, "b c2 h2 w2"]:
        """From h to the network's prediction, the size of the image."""
        net: Any = self.network
        skips = context.skips
        for block in net.up_blocks:
            number = len(block.resnets)
            h = block(h, skips[-number:], context.embedding)
            skips = skips[:-number]
        return net.conv_out(net.conv_act(net.conv_norm_out(h)))

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], cond: Condition
    ) -> Float[Tensor, "b c2 h w"]:
        """What the whole network answers."""
        return self.up(*self.down(x_t, t, cond))
