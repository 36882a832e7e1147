"""diffusers' UNet2DModel and DDPM pipelines: read, and written where their architecture can say the same.

The library itself is not needed: a folder is JSON and tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from zsem.diffusion.schedule import NoiseSchedule
from zsem.interop import layouts
from zsem.interop.architecture import multiples
from zsem.interop.conventions import GUESS, Options
from zsem.interop.files import read_checkpoint
from zsem.interop.strict import fill, skeleton
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import ImageModel
from zsem.nets.unet import HalfUNet
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

CONFIG, PIPELINE, WEIGHTS = "config.json", "model_index.json", "diffusion_pytorch_model"
# has attention; how it goes to the next level, where the type alone says so
DOWN = {
    "DownBlock2D": (False, "conv"), "AttnDownBlock2D": (True, None), "ResnetDownsampleBlock2D": (False, "block"),
}  # fmt: skip
UP = {"UpBlock2D": False, "AttnUpBlock2D": True, "ResnetUpsampleBlock2D": False}
SCHEDULES: dict[str, Literal["linear", "cosine"]] = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


@dataclass(frozen=True, kw_only=True)
class UNet2D:
    """The options of UNet2DModel with its defaults, for what their JSON file leaves out."""

    sample_size: int | tuple[int, int] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1.0
    downsample_padding: int = 1
    downsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None

    @property
    def levels(self) -> int:
        return len(self.block_out_channels)

    @property
    def image_size(self) -> int:
        """Side of the images; raises ZsemError where they are not square."""
        sides = self.sample_size if isinstance(self.sample_size, tuple) else (self.sample_size,) * 2
        if sides[0] != sides[1]:
            raise ZsemError(
                f"the model is for images of {sides[0]} x {sides[1]} pixels; models of square ones are read"
            )
        return sides[0] or 8 * 2 ** (self.levels - 1)


# what must be as it is by default for our U-Net to be the same network
FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,), "time_embedding_type": ("positional",), "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"), "add_attention": (True,), "class_embed_type": (None,),
    "mid_block_type": ("UNetMidBlock2D",), "resnet_time_scale_shift": ("default", "scale_shift"),
}  # fmt: skip
# older attention layers
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def is_diffusers(path: Path) -> bool:
    """Whether a folder holds a UNet2DModel, alone or in a pipeline, and not a model of ours."""
    try:
        about = json.loads((path / CONFIG).read_text("utf-8"))
        return isinstance(about, dict) and about.get("_class_name") == "UNet2DModel"
    except FileNotFoundError:
        return (path / PIPELINE).is_file()
    except (OSError, ValueError):
        return False


def read(path: Path, options: Options = GUESS) -> tuple[DiffusionModel, str, list[str]]:
    """The model of a diffusers folder, the sha256 of its weights, and what was assumed.

    Raises ZsemError for a damaged folder and for options of UNet2DModel that our U-Net does not have.
    """
    options.refuse("diffusers", "heads", "head_channels", "attention_order", "rescale_timesteps", "weights")
    folder = path
    if (path / PIPELINE).is_file():
        folder = path / "unet"
        parts = {name for name in _json(path / PIPELINE) if not name.startswith("_")}
        if parts != {"unet", "scheduler"}:
            raise ZsemError(
                f"{path} is a pipeline of {', '.join(sorted(parts))}; of pipelines, DDPM's and DDIM's are read"
            )
    about = _options(folder / CONFIG)
    schedule, prediction, notes = _scheduler(path, options)
    files = [folder / f"{WEIGHTS}{end}" for end in (".safetensors", ".bin")]
    weights = next((file for file in files if file.is_file()), None)
    if weights is None:
        raise ZsemError(f"{folder} has no {files[0].name}: download the whole folder")
    checkpoint = read_checkpoint(weights)
    if not isinstance(checkpoint.content, Mapping):
        raise ZsemError(f"{weights} holds no named tensors: download it again")
    state = {_modern(name): tensor for name, tensor in checkpoint.content.items() if isinstance(tensor, Tensor)}
    size = options.size or about.image_size
    net, sines_first = _net(about, folder, size)
    config = DiffusionModel.Config(
        image_size=size, image_channels=about.in_channels, prediction=prediction, unet=net, schedule=schedule,
        learned_range=about.out_channels == 2 * about.in_channels, class_dropout=0.0,
    )  # fmt: skip
    model = skeleton(DiffusionModel, config, folder)
    fill(model.unet, layouts.diffusers(model.unet, sines_first=sines_first), state, weights)
    return model, checkpoint.sha256, notes


def _options(path: Path) -> UNet2D:
    about = _json(path)
    if about.get("_class_name") != "UNet2DModel":
        raise ZsemError(f"{path} is of a {about.get('_class_name')}; of diffusers' networks UNet2DModel is read")
    known = {field.name for field in fields(UNet2D)}
    try:
        return TypeAdapter(UNet2D).validate_python({key: value for key, value in about.items() if key in known})
    except ValidationError as error:
        first = error.errors()[0]
        raise ZsemError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; download it again") from None


def _net(about: UNet2D, folder: Path, size: int) -> tuple[HalfUNet.Config, bool]:
    """Our configuration, and whether sines come before cosines."""
    for key, allowed in FIXED.items():
        if getattr(about, key) not in allowed:
            raise ZsemError(f"{folder} has {key} = {getattr(about, key)!r}, which zsem's U-Net does not have")
    groups, scale_shift = about.norm_num_groups, about.resnet_time_scale_shift == "scale_shift"
    if (about.attn_norm_num_groups or (None if scale_shift else groups)) != groups:
        raise ZsemError(
            f"{folder} has attention with another normalisation, or none, in the middle: zsem's U-Net has it"
        )
    downs, ups = about.down_block_types, about.up_block_types
    if odd := sorted(({*downs} - DOWN.keys()) | ({*ups} - UP.keys())):
        raise ZsemError(f"{folder} has blocks of type {odd[0]}, which zsem's U-Net does not have")
    attention = [DOWN[name][0] for name in downs]
    kinds = {DOWN[name][1] or ("block" if about.downsample_type == "resnet" else "conv") for name in downs[:-1]}
    if attention[::-1] != [UP[name] for name in ups] or len(kinds) > 1 or len(downs) != about.levels:
        raise ZsemError(f"{folder} has levels of different kinds, which zsem's U-Net does not have")
    widths = about.block_out_channels
    net = HalfUNet.Config(
        channels=widths[0],
        channel_mult=tuple(multiples(list(widths), widths[0])),
        num_res_blocks=about.layers_per_block,
        attention_resolutions=tuple(size // 2**level for level, has in enumerate(attention) if has),
        num_head_channels=about.attention_head_dim,
        embed_channels=about.time_embedding_dim or 4 * widths[0],
        dropout=about.dropout,
        num_classes=about.num_class_embeds,
        time="scale_shift" if scale_shift else "add",
        resample="block" if kinds == {"block"} else "conv" if about.downsample_padding else "conv_tail",
        norm_groups=groups,
        norm_eps=about.norm_eps,
        frequency_shift=about.freq_shift,
    )
    return net, not about.flip_sin_to_cos


def _scheduler(path: Path, options: Options) -> tuple[NoiseSchedule.Config, Any, list[str]]:
    """Noise schedule and prediction type, from the pipeline's scheduler where there is one."""
    file = path / "scheduler" / "scheduler_config.json"
    about = _json(file) if file.is_file() else {}
    notes = [] if about else [f"{path.name}: no scheduler beside the network; assumed eps on a linear schedule"]
    kind = options.schedule or SCHEDULES.get(about.get("beta_schedule", "linear"))
    prediction = PREDICTIONS.get(about.get("prediction_type", "epsilon"))
    unknown = about.get("trained_betas") is not None or about.get("rescale_betas_zero_snr")
    if kind is None or prediction is None or unknown:
        raise ZsemError(f"{file} has a noise schedule or prediction type that zsem does not have")
    schedule = NoiseSchedule.Config(
        kind=kind, timesteps=options.timesteps or about.get("num_train_timesteps", 1000),
        beta_start=about.get("beta_start", 1e-4), beta_end=about.get("beta_end", 0.02),
    )  # fmt: skip
    return schedule, prediction, notes


def _modern(name: str) -> str:
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ZsemError(f"{path} is missing: download the whole folder") from None
    except ValueError:
        raise ZsemError(f"{path} is not JSON: download it again") from None


def write(model: ImageModel, folder: str | Path) -> Path:
    """Write a DDPM pipeline of diffusers with the model's U-Net, which answers the same there.

    Raises ZsemError where UNet2DModel cannot be such a network: conditions on z, patches, rescaled time or
    residual sums, a first level that is not of the base width, or groups of normalisation that differ between layers.
    """
    folder = Path(folder)
    if (folder / CONFIG).exists() or folder.is_file():
        raise ZsemError(f"{folder} is in use: choose another folder")
    unet, scheduler = _unet_config(model), _scheduler_config(model)
    state: dict[str, Tensor] = {}
    parameters = dict(model.unet.named_parameters())
    for entry in layouts.diffusers(model.unet, sines_first=False):
        state |= {name: part.detach().cpu() for name, part in entry.write(parameters[entry.ours]).items()}
    pipeline = {
        "_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }  # fmt: skip
    for sub in ("unet", "scheduler"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"})
    write_whole(folder / "unet" / f"{WEIGHTS}.safetensors", data)
    files = {"unet/config.json": unet, "scheduler/scheduler_config.json": scheduler, PIPELINE: pipeline}
    for name, content in files.items():
        write_whole(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    return folder


def _unet_config(model: ImageModel) -> dict[str, Any]:
    config, net = model.config, model.config.unet
    widths = [model.unet.width(level) for level in range(len(net.channel_mult))]
    groups = {module.num_groups for module in model.unet.modules() if isinstance(module, torch.nn.GroupNorm)}
    obstacles = {
        "it is conditional on z": getattr(config, "z_dim", None) is not None,
        "it works on patches": net.patch != 1,
        "it rescales time": net.time_scale != 1,
        "it rescales residual sums": net.rescale,
        "its first level is not of the base width": widths[0] != net.channels,
        "its normalisations have different groups": len(groups) > 1,
        "it has a number of heads instead of channels per head": net.num_heads > 1 and net.num_head_channels is None,
        "its prediction v has a sigma_data": config.sigma_data != 1,
        "its noise schedule is constant": config.schedule.kind == "constant",
        "its images are padded inside": model.image_shape != model.noise_shape,
    }
    for why, holds in obstacles.items():
        if holds:
            raise ZsemError(f"this model cannot be a UNet2DModel of diffusers: {why}")
    longer = max(model.image_shape[1:])
    attention = [longer // 2**level in net.attention_resolutions for level in range(len(widths))]
    by_block = net.resample == "block"
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if by_block else ("DownBlock2D", "UpBlock2D")
    return {
        "_class_name": "UNet2DModel", "sample_size": config.image_size, "in_channels": config.image_channels,
        "out_channels": model.unet.conv_out.out_channels, "block_out_channels": widths,
        "layers_per_block": net.num_res_blocks, "time_embedding_dim": net.embed_channels,
        "down_block_types": ["AttnDownBlock2D" if has else down for has in attention],
        "up_block_types": ["AttnUpBlock2D" if has else up for has in attention[::-1]],
        "downsample_type": "resnet" if by_block else "conv", "upsample_type": "resnet" if by_block else "conv",
        "downsample_padding": 0 if net.resample == "conv_tail" else 1, "dropout": net.dropout,
        "attention_head_dim": net.num_head_channels, "norm_num_groups": min(groups), "norm_eps": net.norm_eps,
        "attn_norm_num_groups": min(groups),  # None would leave out the middle's where time scales and shifts
        "resnet_time_scale_shift": "scale_shift" if net.time == "scale_shift" else "default",
        "num_class_embeds": net.num_classes, "freq_shift": net.frequency_shift, "flip_sin_to_cos": True,
    }  # fmt: skip


def _scheduler_config(model: ImageModel) -> dict[str, Any]:
    config = model.config
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    return {
        "_class_name": "DDPMScheduler", "num_train_timesteps": config.schedule.timesteps,
        "beta_schedule": names[config.schedule.kind], "beta_start": config.schedule.beta_start,
        "beta_end": config.schedule.beta_end, "clip_sample": True,
        "prediction_type": next(theirs for theirs, ours in PREDICTIONS.items() if ours == config.prediction),
        "variance_type": "learned_range" if getattr(config, "learned_range", False) else "fixed_small",
    }  # fmt: skip
