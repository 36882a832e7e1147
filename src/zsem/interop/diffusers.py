"""diffusers' UNet2DModel and DDPM pipelines: read, and written where their architecture can say the same.

The library itself is not needed: a folder is JSON and tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from zsem.diffusion.schedule import NoiseSchedule
from zsem.interop import layouts
from zsem.interop.conventions import GUESS, Options
from zsem.interop.files import read_checkpoint
from zsem.interop.strict import fill, skeleton
from zsem.models.diffusion import DiffusionModel
from zsem.models.imaging import ImageModel
from zsem.nets.unet import HalfUNet
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

CONFIG, PIPELINE, WEIGHTS = "config.json", "model_index.json", "diffusion_pytorch_model"
DOWN = {
    "DownBlock2D": (False, "conv"), "AttnDownBlock2D": (True, None), "ResnetDownsampleBlock2D": (False, "block"),
}  # fmt: skip
UP = {"UpBlock2D": False, "AttnUpBlock2D": True, "ResnetUpsampleBlock2D": False}
SCHEDULES: dict[str, Literal["linear", "cosine"]] = {"linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
# what must be as it is by default for our U-Net to be the same network
FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,), "time_embedding_type": ("positional",), "mid_block_scale_factor": (1,),
    "act_fn": ("silu", "swish"), "add_attention": (True,), "class_embed_type": (None,),
    "mid_block_type": ("UNetMidBlock2D",),
}  # fmt: skip
# older attention layers
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def is_diffusers(path: Path) -> bool:
    """Whether a folder holds a UNet2DModel, alone or in a pipeline."""
    if (path / PIPELINE).is_file():
        return True
    try:
        return json.loads((path / CONFIG).read_text("utf-8")).get("_class_name") == "UNet2DModel"
    except (OSError, ValueError, AttributeError):
        return False


def read(path: Path, options: Options = GUESS) -> tuple[DiffusionModel, str, list[str]]:
    """The model of a diffusers folder, the sha256 of its weights, and what was assumed.

    Raises ZsemError for a damaged folder and for options of UNet2DModel that our U-Net does not have.
    """
    folder = path / "unet" if (path / PIPELINE).is_file() else path
    about = _json(folder / CONFIG)
    if about.get("_class_name") != "UNet2DModel":
        raise ZsemError(f"{folder} holds a {about.get('_class_name')}; of diffusers' networks UNet2DModel is read")
    schedule, prediction, notes = _scheduler(path, options)
    files = [folder / f"{WEIGHTS}{end}" for end in (".safetensors", ".bin")]
    weights = next((file for file in files if file.is_file()), None)
    if weights is None:
        raise ZsemError(f"{folder} has no {files[0].name}: download the whole folder")
    checkpoint = read_checkpoint(weights)
    state = {_modern(name): tensor for name, tensor in checkpoint.content.items() if isinstance(tensor, Tensor)}
    net, sines_first = _net(about, folder)
    config = DiffusionModel.Config(
        image_size=_size(about, options), image_channels=about["in_channels"], prediction=prediction,
        unet=net, schedule=schedule, learned_range=about["out_channels"] == 2 * about["in_channels"],
    )  # fmt: skip
    model = skeleton(DiffusionModel, config, folder)
    fill(model.unet, layouts.diffusers(model.unet, sines_first=sines_first), state, weights)
    return model, checkpoint.sha256, notes


def _net(about: Mapping[str, Any], folder: Path) -> tuple[HalfUNet.Config, bool]:
    for key, allowed in FIXED.items():
        if about.get(key, allowed[0]) not in allowed:
            raise ZsemError(f"{folder} has {key} = {about[key]!r}, which zsem's U-Net does not have")
    groups, scale_shift = about.get("norm_num_groups", 32), about.get("resnet_time_scale_shift") == "scale_shift"
    if (about.get("attn_norm_num_groups") or (None if scale_shift else groups)) != groups:
        raise ZsemError(
            f"{folder} has attention with another normalisation, or none, in the middle: zsem's U-Net has it"
        )
    downs, ups = about["down_block_types"], about["up_block_types"]
    if not set(downs) <= DOWN.keys() or not set(ups) <= UP.keys():
        odd = sorted({*downs} - DOWN.keys() | {*ups} - UP.keys())[0]
        raise ZsemError(f"{folder} has blocks of type {odd}, which zsem's U-Net does not have")
    attention = [DOWN[name][0] for name in downs]
    by_block = {
        DOWN[name][1] or ("block" if about.get("downsample_type") == "resnet" else "conv") for name in downs[:-1]
    }
    if attention[::-1] != [UP[name] for name in ups] or len(by_block) > 1:
        raise ZsemError(f"{folder} has levels of different kinds, which zsem's U-Net does not have")
    widths = about["block_out_channels"]
    size = about["sample_size"] or 8 * 2 ** (len(widths) - 1)
    resample = "block" if by_block == {"block"} else "conv" if about.get("downsample_padding", 1) else "conv_tail"
    net = HalfUNet.Config(
        channels=widths[0],
        channel_mult=tuple(w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths),
        num_res_blocks=about["layers_per_block"],
        attention_resolutions=tuple(size // 2**level for level, has in enumerate(attention) if has),
        num_head_channels=about.get("attention_head_dim"),
        embed_channels=about.get("time_embedding_dim") or 4 * widths[0],
        dropout=float(about.get("dropout", 0)), num_classes=about.get("num_class_embeds"),
        time="scale_shift" if scale_shift else "add", resample=resample,
        norm_groups=groups, norm_eps=float(about.get("norm_eps", 1e-5)),
        frequency_shift=about.get("freq_shift", 0),
    )  # fmt: skip
    return net, not about.get("flip_sin_to_cos", True)


def _size(about: Mapping[str, Any], options: Options) -> int:
    size = about["sample_size"]
    if isinstance(size, (list, tuple)):
        if size[0] != size[1]:
            raise ZsemError(f"the model is for images of {size[0]} x {size[1]} pixels; square ones are read")
        size = size[0]
    return options.image_size or size or 8 * 2 ** (len(about["block_out_channels"]) - 1)


def _scheduler(path: Path, options: Options) -> tuple[NoiseSchedule.Config, Any, list[str]]:
    """Noise schedule and prediction type, from the pipeline's scheduler where there is one."""
    file = path / "scheduler" / "scheduler_config.json"
    about = _json(file) if file.is_file() else {}
    notes = [] if about else [f"{path.name}: no scheduler beside the network; assumed eps on a linear schedule"]
    kind = options.schedule or SCHEDULES.get(about.get("beta_schedule", "linear"))
    prediction = PREDICTIONS.get(about.get("prediction_type", "epsilon"))
    if kind is None or prediction is None or about.get("trained_betas") is not None:
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

    Raises ZsemError where UNet2DModel cannot be such a network: conditions on z, patches, a rescaled time, a first
    level that is not of the base width, or groups of normalisation that differ between layers.
    """
    config, net, folder = model.config, model.config.unet, Path(folder)
    widths = [model.unet.width(level) for level in range(len(net.channel_mult))]
    groups = {module.num_groups for module in model.unet.modules() if isinstance(module, torch.nn.GroupNorm)}
    obstacles = {
        "it is conditional on z": getattr(config, "z_dim", None) is not None,
        "it works on patches": net.patch != 1,
        "it rescales time": net.time_scale != 1,
        "its first level is not of the base width": widths[0] != net.channels,
        "its normalisations have different groups": len(groups) > 1,
        "it has a number of heads instead of channels per head": net.num_heads > 1 and net.num_head_channels is None,
        "its noise schedule is constant": config.schedule.kind == "constant",
    }
    for why, holds in obstacles.items():
        if holds:
            raise ZsemError(f"this model cannot be a UNet2DModel of diffusers: {why}")
    attention = [config.image_size // 2**level in net.attention_resolutions for level in range(len(widths))]
    by_block = net.resample == "block"
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if by_block else ("DownBlock2D", "UpBlock2D")
    about = {
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
    state: dict[str, Tensor] = {}
    parameters = dict(model.unet.named_parameters())
    for entry in layouts.diffusers(model.unet, sines_first=False):
        state |= {name: part.detach().cpu() for name, part in entry.write(parameters[entry.ours]).items()}
    names = {ours: theirs for theirs, ours in SCHEDULES.items()}
    scheduler = {
        "_class_name": "DDPMScheduler", "num_train_timesteps": config.schedule.timesteps,
        "beta_schedule": names[config.schedule.kind], "beta_start": config.schedule.beta_start,
        "beta_end": config.schedule.beta_end, "clip_sample": True,
        "prediction_type": next(theirs for theirs, ours in PREDICTIONS.items() if ours == config.prediction),
        "variance_type": "learned_range" if getattr(config, "learned_range", False) else "fixed_small",
    }  # fmt: skip
    pipeline = {
        "_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }  # fmt: skip
    for sub in ("unet", "scheduler"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in state.items()}, {"format": "pt"})
    write_whole(folder / "unet" / f"{WEIGHTS}.safetensors", data)
    for name, content in (
        ("unet/config.json", about),
        ("scheduler/scheduler_config.json", scheduler),
        (PIPELINE, pipeline),
    ):
        write_whole(folder / name, (json.dumps(content, indent=2) + "\n").encode())
    return folder
