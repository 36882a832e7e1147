"""Do imported checkpoints answer as the code that they come from? Random weights in the official classes, both ways.

    python benchmarks/import_parity.py --reference CHECKOUT [--reference CHECKOUT ..] [--markdown FILE]

CHECKOUT: a copy of phizaz/diffae, openai/guided-diffusion, openai/improved-diffusion or kwonminki/Asyrp_official (for
its DDPM++ network); the code in it is run. Every network is built by the official classes, all its weights are drawn
anew (zero-initialised layers too), saved as the official training saves it, imported with `zsem import`'s code, and
compared. diffusers is measured as installed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import Clip
from zsem.diffusion.solvers import ddim
from zsem.interop import diffusers as pipelines
from zsem.interop.conventions import Options
from zsem.interop.importing import Imported, read_models
from zsem.values.prediction import Condition

TOLERANCE = 1e-5
STEP_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison: the largest difference, relative to the largest value of the reference where that is over 1."""

    source: str
    what: str
    parameters: int
    difference: float
    tolerance: float = TOLERANCE


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / max(1.0, float(theirs.abs().max())))


def draw(network: nn.Module, seed: int = 0) -> nn.Module:
    """All weights anew, so that no branch of the network is silent; outputs stay of the order of 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + (1.0 if is_norm(network, name) else 0.0))
    return network.eval()


def is_norm(network: nn.Module, name: str) -> bool:
    module, _, kind = name.rpartition(".")
    return kind == "weight" and isinstance(network.get_submodule(module), (nn.GroupNorm, nn.LayerNorm))


def images(number: int, size: int, seed: int = 1) -> Tensor:
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def times(*values: int) -> Tensor:
    return torch.tensor(values)


def imported(content: Any, options: Options = Options()) -> Imported:  # noqa: B008
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        torch.save(content, path)
        return read_models([path], options)


def lightning(network: nn.Module, size: int, **more: Any) -> dict[str, Any]:
    """A file as Lightning 1.4 saves it: callbacks are keyed by a class, which only Lightning can unpickle."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    key = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = key
    for part in (name, "pytorch_lightning.callbacks", "pytorch_lightning"):
        sys.modules[part] = module
    state = {f"ema_model.{k}": v for k, v in network.state_dict().items()}
    state |= {f"model.{k}": torch.randn_like(v) for k, v in network.state_dict().items()}
    state["x_T"] = torch.randn(32, 3, size, size)
    return {
        "epoch": 0, "global_step": 1, "pytorch-lightning_version": "1.4.5", "state_dict": state | more,
        "callbacks": {key: {"best_model_path": ""}}, "hyper_parameters": {"img_size": size, "T": 1000},
    }  # fmt: skip


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def diffae(checkout: Path) -> Iterator[Row]:
    from choices import Activation
    from model.latentnet import MLPSkipNetConfig
    from model.unet import BeatGANsUNetConfig
    from model.unet_autoenc import BeatGANsAutoencConfig

    latent_net = MLPSkipNetConfig(
        num_channels=512, skip_layers=tuple(range(1, 10)), num_hid_channels=2048, num_layers=10,
        activation=Activation.silu, use_norm=True, condition_bias=1,
    )  # fmt: skip
    shared = {"resnet_two_cond": True, "dropout": 0.1}
    autoencoders: list[tuple[str, dict[str, Any]]] = [
        ("ffhq128 autoenc + latent", {
            "image_size": 128, "model_channels": 128, "channel_mult": (1, 1, 2, 3, 4),
            "enc_channel_mult": (1, 1, 2, 3, 4, 4), "latent_net_conf": latent_net,
        }),
        ("celeba64 autoenc", {
            "image_size": 64, "model_channels": 64, "channel_mult": (1, 2, 4, 8), "enc_channel_mult": (1, 2, 4, 8, 8),
        }),
    ]  # fmt: skip
    for name, settings in autoencoders:
        theirs = draw(BeatGANsAutoencConfig(**settings, **shared, enc_pool="adaptivenonzero").make_model())
        size = settings["image_size"]
        statistics = {"conds_mean": torch.randn(1, 512), "conds_std": torch.rand(1, 512) + 0.5}
        found = imported(lightning(theirs, size, **(statistics if "latent_net_conf" in settings else {})))
        ours, x, t = found.model, images(2, size), times(3, 900)
        with torch.no_grad():
            z = theirs.encoder(x)
            yield Row(source=name, what="z_sem", parameters=count(theirs), difference=difference(ours.encoder(x), z))
            eps = theirs(x, t, cond=z).pred
            mine = ours.unet(x, t.float(), Condition(z=z))
            yield Row(source=name, what="eps", parameters=count(theirs), difference=difference(mine, eps))
            if found.prior is not None:
                z_t = torch.randn(4, 512)
                theirs_eps = theirs.latent_net(z_t, times(0, 10, 500, 999)).pred
                mine = found.prior.net(z_t, times(0, 10, 500, 999).float())
                yield Row(
                    source=name, what="latent eps", parameters=count(theirs.latent_net),
                    difference=difference(mine, theirs_eps),
                )  # fmt: skip
    theirs = draw(BeatGANsUNetConfig(image_size=128, model_channels=128, channel_mult=(1, 1, 2, 3, 4)).make_model())
    ours, x, t = imported(lightning(theirs, 128)).model, images(2, 128), times(3, 900)
    with torch.no_grad():
        yield Row(
            source="ddim128", what="eps", parameters=count(theirs),
            difference=difference(ours.unet(x, t.float(), Condition()), theirs(x, t).pred),
        )  # fmt: skip
    yield from classifier_head()
    yield from sampling(BeatGANsAutoencConfig, shared)


def classifier_head() -> Iterator[Row]:
    head, mean, std = draw(nn.Linear(512, 40)), torch.randn(1, 512), torch.rand(1, 512) + 0.5
    state = {f"{kind}.{k}": v for kind in ("classifier", "ema_classifier") for k, v in head.state_dict().items()}
    found = imported({"state_dict": {**state, "conds_mean": mean, "conds_std": std}, "global_step": 9375})
    z = torch.randn(8, 512)
    with torch.no_grad():
        logits = torch.stack([d.logit((z - found.z_mean) / found.z_std) for d in found.directions("")], dim=1)
        yield Row(
            source="ffhq128 classifier", what="logits of 40 attributes", parameters=count(head),
            difference=difference(logits, head((z - mean) / std)),
        )  # fmt: skip


def sampling(config: Callable[..., Any], shared: dict[str, Any]) -> Iterator[Row]:
    """The codec "reference" against the official loops, state by state, on a small autoencoder."""
    import numpy as np
    from choices import ModelType
    from diffusion.base import GenerativeType, LossType, ModelMeanType, ModelVarType
    from diffusion.diffusion import SpacedDiffusionBeatGansConfig, space_timesteps

    theirs = draw(config(
        image_size=32, model_channels=32, channel_mult=(1, 2), enc_channel_mult=(1, 2, 2), embed_channels=64,
        enc_out_channels=64, enc_pool="adaptivenonzero", **shared,
    ).make_model())  # fmt: skip
    ours, x, steps = imported(lightning(theirs, 32)).model, images(2, 32), 20
    sampler = SpacedDiffusionBeatGansConfig(
        gen_type=GenerativeType.ddim, betas=np.linspace(1e-4, 0.02, 1000), model_type=ModelType.autoencoder,
        model_mean_type=ModelMeanType.eps, model_var_type=ModelVarType.fixed_large, loss_type=LossType.mse,
        rescale_timesteps=False, fp16=False, use_timesteps=space_timesteps(1000, f"ddim{steps}"),
    ).make_sampler()  # fmt: skip
    codes = ours.encode(x, codec="reference", steps=steps)
    with torch.no_grad():
        z = theirs.encoder(x)
        inverted = sampler.ddim_reverse_sample_loop(theirs, x, model_kwargs={"cond": z})
        states = sampler.ddim_sample_loop_progressive(theirs, noise=inverted["sample"], model_kwargs={"cond": z})
        walk = ddim(Clip(bind(ours.denoiser, Condition(z=z))), inverted["sample"], ours.grid(steps, "reference"))
        worst = max(difference(a.x.float(), b["sample"]) for a, b in zip(walk, states, strict=True))
    yield Row(
        source=f"DDIM, T = {steps}", what="ddim_reverse_sample_loop", parameters=count(theirs),
        difference=difference(codes.noise.x_T, inverted["sample"]), tolerance=STEP_TOLERANCE,
    )  # fmt: skip
    yield Row(
        source=f"DDIM, T = {steps}", what="ddim_sample_loop, every step", parameters=count(theirs), difference=worst,
        tolerance=STEP_TOLERANCE,
    )  # fmt: skip


def guided(checkout: Path) -> Iterator[Row]:
    from guided_diffusion.script_util import create_classifier, create_model

    flags = {
        "image_size": 64,
        "num_channels": 128,
        "num_res_blocks": 2,
        "resblock_updown": True,
        "num_head_channels": 64,
    }
    flags |= {"use_scale_shift_norm": True, "learn_sigma": True, "attention_resolutions": "32,16,8"}
    theirs = draw(create_model(**flags))
    ours, x, t = imported(theirs.state_dict()).model, images(2, 64), times(3, 900)
    with torch.no_grad():
        yield Row(
            source="guided-diffusion, 64 px", what="eps and variance", parameters=count(theirs),
            difference=difference(ours.unet(x, t.float(), Condition()), theirs(x, t)),
        )  # fmt: skip
    theirs = draw(create_model(**flags, class_cond=True, use_new_attention_order=True))
    ours, y = imported(theirs.state_dict()).model, torch.tensor([5, 999])
    with torch.no_grad():
        yield Row(
            source="guided-diffusion, 64 px, classes", what="eps and variance", parameters=count(theirs),
            difference=difference(ours.unet(x, t.float(), Condition(classes=y)), theirs(x, t, y)),
        )  # fmt: skip
    theirs = draw(create_classifier(64, False, 128, 4, "32,16,8", True, True, "attention"))
    ours = imported(theirs.state_dict()).model
    with torch.no_grad():
        yield Row(
            source="guided-diffusion classifier, 64 px", what="logits", parameters=count(theirs),
            difference=difference(ours(x, t.float()), theirs(x, t)),
        )  # fmt: skip


def improved(checkout: Path) -> Iterator[Row]:
    from improved_diffusion.script_util import create_model

    theirs = draw(create_model(
        image_size=32, num_channels=128, num_res_blocks=3, learn_sigma=True, class_cond=False, use_checkpoint=False,
        attention_resolutions="16,8", num_heads=4, num_heads_upsample=-1, use_scale_shift_norm=True, dropout=0.3,
    ))  # fmt: skip
    ours, x, t = imported(theirs.state_dict()).model, images(2, 32), times(3, 3900)
    with torch.no_grad():
        yield Row(
            source="improved-diffusion, CIFAR-10", what="eps and variance", parameters=count(theirs),
            difference=difference(ours.unet(x, t.float(), Condition()), theirs(x, t.float() / 4)),
        )  # fmt: skip


def ddpm(checkout: Path) -> Iterator[Row]:
    from models.ddpm.diffusion import DDPM

    model = types.SimpleNamespace(
        ch=128, out_ch=3, ch_mult=[1, 1, 2, 2, 4, 4], num_res_blocks=2, attn_resolutions=[16], dropout=0.0,
        in_channels=3, resamp_with_conv=True,
    )  # fmt: skip
    theirs = draw(DDPM(types.SimpleNamespace(model=model, data=types.SimpleNamespace(image_size=256))))
    ours, x, t = imported(theirs.state_dict()).model, images(1, 256), times(700)
    with torch.no_grad():
        out = theirs(x, t)
        yield Row(
            source="DDPM++ (SDEdit, CelebA-HQ)", what="eps", parameters=count(theirs),
            difference=difference(ours.unet(x, t.float(), Condition()), out[0] if isinstance(out, tuple) else out),
        )  # fmt: skip


def hugging_face() -> Iterator[Row]:
    from diffusers import UNet2DModel

    theirs = draw(UNet2DModel(
        sample_size=256, block_out_channels=(128, 128, 256, 256, 512, 512), layers_per_block=2, downsample_padding=0,
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"), flip_sin_to_cos=False, freq_shift=1,
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4, attention_head_dim=None, norm_eps=1e-6,
    ))  # fmt: skip
    x, t = images(1, 256), times(700)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        theirs.save_pretrained(folder)
        ours = read_models([Path(folder)]).model
        yield Row(
            source="diffusers (ddpm-celebahq-256)", what="eps", parameters=count(theirs),
            difference=difference(ours.unet(x, t.float(), Condition()), theirs(x, t).sample),
        )  # fmt: skip
        pipelines.write(ours, Path(folder) / "back")
        again = UNet2DModel.from_pretrained(Path(folder) / "back" / "unet")
        yield Row(
            source="the same, written by zsem", what="eps in diffusers", parameters=count(again),
            difference=difference(again(x, t).sample, theirs(x, t).sample),
        )  # fmt: skip


# what is in a checkout, and what is measured on it
SOURCES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "model/unet_autoenc.py": diffae,
    "guided_diffusion/unet.py": guided,
    "improved_diffusion/unet.py": improved,
    "models/ddpm/diffusion.py": ddpm,
}


def measure(checkouts: list[Path]) -> Iterator[Row]:
    for checkout in checkouts:
        known = [rows for file, rows in SOURCES.items() if (checkout / file).is_file()]
        if not known:
            sys.exit(f"{checkout} is none of the checkouts that this script knows")
        sys.path.insert(0, str(checkout))
        yield from known[0](checkout)
        sys.path.remove(str(checkout))
    yield from hugging_face()


def tell(heading: list[str], rows: Iterable[tuple[str, bool]], markdown: Path | None) -> int:
    """Print a table as its rows come, (line, whether it differs too much), and write it; 1 where any does, else 0."""
    lines, failed = list(heading), 0
    print("\n".join(lines))
    for line, wrong in rows:
        lines.append(line)
        print(line, flush=True)
        failed += wrong
    if markdown:
        markdown.write_text("\n".join(lines) + "\n", "utf-8")
    print(f"{failed} of {len(lines) - len(heading)} differ by more than they may", file=sys.stderr)
    return int(failed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, action="append", default=[], metavar="CHECKOUT")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    heading = ["| checkpoint | compared | parameters | largest difference |", "|---|---|---|---|"]
    rows = (
        (f"| {row.source} | {row.what} | {row.parameters:,} | {row.difference:.1e} |", row.difference > row.tolerance)
        for row in measure([path.resolve() for path in arguments.reference])
    )
    return tell(heading, rows, arguments.markdown)


if __name__ == "__main__":
    sys.exit(main())
