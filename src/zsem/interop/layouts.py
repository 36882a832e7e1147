"""Which tensor of a foreign checkpoint is which parameter of ours, for every published layout of the ADM U-Net.

A layout is the names of a block's parts, and the places of the blocks. It reads both ways: from a checkpoint into our
network, and back where another library is to load our weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zsem.nets.blocks import Attention, DownConv, ResBlock, UpConv
from zsem.nets.encoder import NoisyClassifierNet, SemanticEncoder
from zsem.nets.latent import LatentNet
from zsem.nets.unet import HalfUNet, Stage, UNet

Order = Literal["same", "heads", "waves"]
# (path of a module in our network, its path in the checkpoint, the module)
Place = tuple[str, str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One parameter of ours and where it is found.

    ours: its name in our network.
    theirs: the names of the tensors that, joined along their first axis, make it.
    order: "heads" where queries, keys and values follow each other head by head instead of side by side; "waves" where
        the sines of the time embedding come before its cosines.
    heads: number of attention heads, for "heads".
    """

    ours: str
    theirs: tuple[str, ...]
    order: Order = "same"
    heads: int = 1

    def read(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        """Our parameter, float32, from theirs. Raises ValueError where the shapes do not fit."""
        parts = [tensors[name] for name in self.theirs]
        found = torch.cat(parts) if len(parts) > 1 else parts[0]
        if [side for side in found.shape if side != 1] != [side for side in shape if side != 1]:
            raise ValueError(f"{self.theirs} are {list(found.shape)}, not {list(shape)}")
        # a copy: what was read may be a map of a file that somebody changes
        found = found.to(torch.float32, copy=True).reshape(shape)
        if self.order == "waves":
            found = found.roll(shape[1] // 2, dims=1)
        elif self.order == "heads":
            found = found.unflatten(0, (self.heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        return found.contiguous()

    def write(self, parameter: Tensor) -> dict[str, Tensor]:
        """Their tensors from our parameter, in our shapes."""
        if self.order == "waves":
            parameter = parameter.roll(parameter.shape[1] // 2, dims=1)
        elif self.order == "heads":
            parameter = parameter.unflatten(0, (3, self.heads, -1)).transpose(0, 1).flatten(0, 2)
        return dict(zip(self.theirs, parameter.contiguous().chunk(len(self.theirs)), strict=True))


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a layout calls the parts of a residual block and of attention."""

    norm_in: str
    conv_in: str
    embed_time: str
    norm_out: str
    conv_out: str
    skip: str
    norm: str
    qkv: tuple[str, ...]
    project: str
    down: str = "conv"
    embed_z: str = ""

    def entries(self, place: Place, order: Order) -> Iterator[Entry]:
        """The parameters of one module; `order` is that of attention's queries, keys and values."""
        ours, theirs, module = place
        if isinstance(module, (ResBlock, Attention, DownConv)):
            for name, child in module.named_children():
                if not list(child.parameters()):
                    continue
                if isinstance(module, Attention) and name == "qkv":
                    parts = tuple(f"{theirs}.{part}" for part in self.qkv)
                    yield from _parameters(f"{ours}.qkv", parts, child, order, module.heads)
                else:
                    part = self.down if isinstance(module, DownConv) else getattr(self, name)
                    yield from _parameters(f"{ours}.{name}", (f"{theirs}.{part}",), child)
        elif isinstance(module, UpConv):
            yield from _parameters(f"{ours}.conv", (f"{theirs}.conv",), module.conv)
        else:
            yield from _parameters(ours, (theirs,), module)


def _parameters(
    ours: str, theirs: tuple[str, ...], module: nn.Module, order: Order = "same", heads: int = 1
) -> Iterator[Entry]:
    for name, _ in module.named_parameters(recurse=False):
        yield Entry(
            ours=f"{ours}.{name}", theirs=tuple(f"{part}.{name}" for part in theirs), order=order, heads=heads
        )  # fmt: skip


ADM = Names(
    norm_in="in_layers.0", conv_in="in_layers.2", embed_time="emb_layers.1", embed_z="cond_emb_layers.1",
    norm_out="out_layers.0", conv_out="out_layers.3", skip="skip_connection",
    norm="norm", qkv=("qkv",), project="proj_out", down="op",
)  # fmt: skip
DDPM = Names(
    norm_in="norm1", conv_in="conv1", embed_time="temb_proj", norm_out="norm2", conv_out="conv2", skip="nin_shortcut",
    norm="norm", qkv=("q", "k", "v"), project="proj_out",
)  # fmt: skip
DIFFUSERS = Names(
    norm_in="norm1", conv_in="conv1", embed_time="time_emb_proj", norm_out="norm2", conv_out="conv2",
    skip="conv_shortcut", norm="group_norm", qkv=("to_q", "to_k", "to_v"), project="to_out.0",
)  # fmt: skip


def adm(network: HalfUNet, *, time: str = "time_embed", legacy_heads: bool = True) -> list[Entry]:
    """The layout of improved-diffusion, guided-diffusion (ADM, P2) and DiffAE, whole or half (a noisy classifier).

    time: where the time embedding is; DiffAE's autoencoders have it one level deeper.
    legacy_heads: attention of several heads is stored head by head, as in all published weights.
    """
    order: Order = "heads" if legacy_heads else "same"
    entries = [entry for place in _adm_places(network, time) for entry in ADM.entries(place, order)]
    if isinstance(network, NoisyClassifierNet):
        entries.append(Entry(ours="pool.position", theirs=("out.2.positional_embedding",)))
    return entries


def adm_encoder(network: SemanticEncoder, *, legacy_heads: bool = True) -> list[Entry]:
    """The layout of DiffAE's semantic encoder."""
    order: Order = "heads" if legacy_heads else "same"
    places: list[Place] = [("stem", "input_blocks.0.0", network.stem)]
    layers = list(network.layers)
    number = 0
    for i, layer in enumerate(layers[:-3]):
        number += isinstance(layer, ResBlock)
        places.append((f"layers.{i}", f"input_blocks.{number}.{int(isinstance(layer, Attention))}", layer))
    for k, layer in enumerate(layers[-3:]):
        places.append((f"layers.{len(layers) - 3 + k}", f"middle_block.{k}", layer))
    places += [("norm_out", "out.0", network.norm_out), ("project", "out.3", network.project)]
    return [entry for place in places for entry in ADM.entries(place, order)]


def latent(network: LatentNet) -> list[Entry]:
    """The layout of DiffAE's latent network; `linear_emb` is stored a second time there, as `cond_layers.1`."""
    entries = []
    for i in (0, 2):
        entries += _parameters(f"time_embed.{i}", (f"time_embed.{i}",), network.time_embed[i])
    names = {"linear": "linear", "embed_time": "linear_emb", "norm": "norm"}
    for i, layer in enumerate(network.layers):
        for name, child in layer.named_children():
            entries += _parameters(f"layers.{i}.{name}", (f"layers.{i}.{names[name]}",), child)
    return entries


def ddpm(network: UNet) -> list[Entry]:
    """The layout of DDPM's PyTorch port (DDPM++, SDEdit, DDIM)."""
    places = _level_places(
        network,
        stem="conv_in", norm_out="norm_out", conv_out="conv_out", time=("temb.dense.0", "temb.dense.1"),
        down=("down.{level}.block.{i}", "down.{level}.attn.{i}", "down.{level}.downsample"),
        middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
        up=("up.{level}.block.{i}", "up.{level}.attn.{i}", "up.{level}.upsample"),
    )  # fmt: skip
    return _sines_first([entry for place in places for entry in DDPM.entries(place, "same")])


def diffusers(network: UNet, *, sines_first: bool) -> list[Entry]:
    """The layout of diffusers' UNet2DModel; `sines_first` is the opposite of its flip_sin_to_cos."""
    places = _level_places(
        network,
        stem="conv_in", norm_out="conv_norm_out", conv_out="conv_out",
        time=("time_embedding.linear_1", "time_embedding.linear_2"),
        down=(
            "down_blocks.{level}.resnets.{i}", "down_blocks.{level}.attentions.{i}",
            "down_blocks.{level}.downsamplers.0",
        ),
        middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
        up=("up_blocks.{rank}.resnets.{i}", "up_blocks.{rank}.attentions.{i}", "up_blocks.{rank}.upsamplers.0"),
    )  # fmt: skip
    if network.class_embed is not None:
        places.append(("class_embed", "class_embedding", network.class_embed))
    entries = [entry for place in places for entry in DIFFUSERS.entries(place, "same")]
    return _sines_first(entries) if sines_first else entries


def _sines_first(entries: list[Entry]) -> list[Entry]:
    return [
        Entry(ours=entry.ours, theirs=entry.theirs, order="waves") if entry.ours == "time_embed.0.weight" else entry
        for entry in entries
    ]


def _stage_places(ours: str, stage: Stage, theirs: str) -> Iterator[Place]:
    """In ADM's layout the parts of a stage are numbered in the order in which they are there."""
    parts = [name for name in ("block", "attention", "resample") if getattr(stage, name) is not None]
    for number, name in enumerate(parts):
        yield f"{ours}.{name}", f"{theirs}.{number}", getattr(stage, name)


def _adm_places(network: HalfUNet, time: str) -> Iterator[Place]:
    for i in (0, 2):
        yield f"time_embed.{i}", f"{time}.{i}", network.time_embed[i]
    if network.class_embed is not None:
        yield "class_embed", "label_emb", network.class_embed
    yield "stem", "input_blocks.0.0", network.stem
    for i, stage in enumerate(network.down_stages):
        assert isinstance(stage, Stage)
        yield from _stage_places(f"down_stages.{i}", stage, f"input_blocks.{i + 1}")
    yield from _stage_places("middle_in", network.middle_in, "middle_block")
    yield "middle_out", "middle_block.2", network.middle_out
    if isinstance(network, UNet):
        for i, stage in enumerate(network.up_stages):
            assert isinstance(stage, Stage)
            yield from _stage_places(f"up_stages.{i}", stage, f"output_blocks.{i}")
        yield "norm_out", "out.0", network.norm_out
        yield "conv_out", "out.2", network.conv_out
    elif isinstance(network, NoisyClassifierNet):
        yield "norm_out", "out.0", network.norm_out
        yield "pool.qkv", "out.2.qkv_proj", network.pool.qkv
        yield "pool.project", "out.2.c_proj", network.pool.project


def _level_places(
    network: UNet,
    *,
    stem: str,
    norm_out: str,
    conv_out: str,
    time: tuple[str, str],
    down: tuple[str, str, str],
    middle: tuple[str, str, str],
    up: tuple[str, str, str],
) -> list[Place]:
    """Places in layouts that number blocks level by level.

    down, up: patterns for a block, its attention, and the resampling of a level; `level` counts from the finest,
    `rank` from the coarsest.
    """
    places: list[Place] = [
        ("stem", stem, network.stem),
        ("time_embed.0", time[0], network.time_embed[0]),
        ("time_embed.2", time[1], network.time_embed[2]),
        ("norm_out", norm_out, network.norm_out),
        ("conv_out", conv_out, network.conv_out),
        ("middle_in.block", middle[0], network.middle_in.block),
        ("middle_out", middle[2], network.middle_out),
    ]
    if network.middle_in.attention is not None:
        places.append(("middle_in.attention", middle[1], network.middle_in.attention))
    levels, blocks = len(network.config.channel_mult), network.config.num_res_blocks
    for number, stage in enumerate(network.down_stages):
        level, i = divmod(number, blocks + 1)
        names = down if i < blocks else (down[2], "", "")
        places += _level_stage(f"down_stages.{number}", stage, names, level=level, rank=levels - 1 - level, i=i)
    for number, stage in enumerate(network.up_stages):
        rank, i = divmod(number, blocks + 1)
        places += _level_stage(f"up_stages.{number}", stage, up, level=levels - 1 - rank, rank=rank, i=i)
    return places


def _level_stage(ours: str, stage: nn.Module, names: tuple[str, str, str], **where: int) -> Iterator[Place]:
    assert isinstance(stage, Stage)
    for name, pattern in zip(("block", "attention", "resample"), names, strict=True):
        module = getattr(stage, name)
        if module is not None:
            yield f"{ours}.{name}", pattern.format(**where), module
