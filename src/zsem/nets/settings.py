"""What the configurations of all networks with levels share: a check of their numbers, and the images they take."""

from __future__ import annotations

from typing import Any

from zsem.values.errors import ZsemError

COUNTS = (
    "channels", "num_res_blocks", "num_heads", "num_head_channels", "embed_channels", "patch", "pool", "norm_groups",
    "num_classes",
)  # fmt: skip


class Levels:
    """Base of the configurations of networks whose levels halve the resolution; the fields are those of each."""

    channel_mult: Any
    patch: int

    def __post_init__(self) -> None:
        check_network(self)

    @property
    def multiple(self) -> int:
        """What the sides of images must be multiples of."""
        return self.patch * 2 ** (len(self.channel_mult) - 1)


def check_network(config: Any) -> None:
    """Raise ZsemError for a configuration with a count below one, a level without channels, or no level.

    config: with `channels` and `channel_mult`, and any of `COUNTS` and `dropout`; None stands for what is left out.
    """
    for name in COUNTS:
        value = getattr(config, name, None)
        if value is not None and value < 1:
            raise ZsemError(f"{name} of a network must be at least 1, not {value}")
    widths = [int(config.channels * mult) for mult in config.channel_mult]
    if not widths or min(widths) < 1:
        raise ZsemError(
            f"channel_mult of a network must have a number above 0 for each level, not {list(config.channel_mult)}"
        )
    if not 0 <= getattr(config, "dropout", 0.0) < 1:
        raise ZsemError(f"dropout of a network is a share, from 0 to below 1, not {config.dropout:g}")
