"""Foreign checkpoints to models of ours: what kind of file it is, which networks it holds, and what else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from zsem.diffusion.schedule import NoiseSchedule
from zsem.interop import architecture, diffusers, layouts
from zsem.interop.architecture import Heads
from zsem.interop.conventions import GUESS, ONE_HEAD, Conventions, Options, of_guided_diffusion, scaled
from zsem.interop.files import Checkpoint, read_checkpoint
from zsem.interop.strict import fill, skeleton
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.base import Model
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.models.prior import LatentDiffusion
from zsem.nets.unet import HalfUNet
from zsem.values.direction import Direction
from zsem.values.errors import ZsemError

# the order of the rows of DiffAE's classifier: CelebA-HQ's attributes as its annotation file has them
CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes",
    "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling",
    "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip
ValueT = TypeVar("ValueT")
# keys under which training scripts keep averaged and last weights of one network
AVERAGED = ("ema", "model_ema", "ema_model", "ema_state_dict", "model_ema_state_dict")
LAST = ("model", "state_dict", "model_state_dict", "net", "network")


@dataclass(kw_only=True)
class Imported:
    """What was found in one or several files that belong together.

    model: an autoencoder, a diffusion model, or a classifier of noisy images.
    prior: the latent DDIM of an autoencoder.
    z_mean, z_std: statistics of z over the training images, [d].
    weight, bias: of a linear classifier on normalised z, [k, d] and [k].
    notes: what was assumed or is missing.
    left_out: objects in files that are not data.
    origins: file, sha256, layout and weights of every file.
    """

    model: Model | None = None
    prior: LatentDiffusion | None = None
    z_mean: Tensor | None = None
    z_std: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    origins: list[dict[str, Any]] = field(default_factory=list)

    def directions(self, stamp: str) -> list[Direction]:
        """The classifier's rows as directions of unit length in normalised z."""
        if self.weight is None or self.bias is None:
            return []
        k = len(self.weight)
        names = CELEBA_ATTRIBUTES if k == len(CELEBA_ATTRIBUTES) else [f"class_{i}" for i in range(k)]
        lengths = self.weight.norm(dim=1)
        return [
            Direction(
                space="z", vector=row / length, unit="length of normalised z", name=name, model=stamp,
                slope=float(length), intercept=float(offset),
            )
            for name, row, length, offset in zip(names, self.weight, lengths, self.bias, strict=True)
        ]  # fmt: skip


def is_foreign(path: Path) -> bool:
    """Whether a path is what `read_models` reads: a file, or a folder of diffusers."""
    return path.is_file() or diffusers.is_diffusers(path)


def read_models(paths: Sequence[Path], options: Options = GUESS) -> Imported:
    """Read checkpoint files that belong together, e.g. an autoencoder, its latent.pkl and its classifier.

    Raises ZsemError for what is damaged, unknown, of another architecture, or there twice. Nothing in a file is run.
    """
    found = Imported()
    for path in paths:
        if diffusers.is_diffusers(path):
            model, sha256, notes = diffusers.read(path, options)
            found.origins.append({"file": path.name, "sha256": sha256, "layout": "diffusers"})
            found.notes += notes
            _add_model(found, model, path)
            continue
        checkpoint = read_checkpoint(path)
        if checkpoint.stubs:
            named = ", ".join(checkpoint.stubs[:5]) + (" .." if len(checkpoint.stubs) > 5 else "")
            found.left_out.append(f"{path.name}: objects that are not data were left out ({named})")
        try:
            layout, weights = _read_one(found, checkpoint, options)
        except architecture.UnknownArchitectureError as error:
            raise ZsemError(f"{path}: {error}") from None
        origin = {"file": path.name, "sha256": checkpoint.sha256, "layout": layout}
        found.origins.append({**origin, "weights": weights} if weights else origin)
    _settle_statistics(found)
    for model in (found.model, found.prior):
        if model is not None:
            model.history = {"origin": found.origins}
            model.eval()
    return found


def _read_one(found: Imported, checkpoint: Checkpoint, options: Options) -> tuple[str, str]:
    """Add to `found` what one file holds; returns its layout and which of several sets of weights were taken, or ""."""
    content, path = checkpoint.content, checkpoint.path
    if isinstance(content, Mapping) and "conds_mean" in content and "state_dict" not in content:
        _add_statistics(found, content, path)
        return "diffae statistics", ""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        state = tensors(content["state_dict"])
        if "classifier.weight" in state:
            return _read_heads(found, state, path, options)
        if any(name.startswith(("model.", "ema_model.")) for name in state):
            return _read_diffae(found, state, content.get("hyper_parameters"), path, options)
    state, weights = _flat_state(content, options.weights)
    if not weights:
        options.refuse("a file with one set of weights", "weights")
    if "input_blocks.0.0.weight" in state:
        return _read_guided(found, state, path, options), weights
    if "temb.dense.0.weight" in state:
        return _read_ddpm(found, state, path, options), weights
    first = f" (it begins with {', '.join(list(state)[:3])})" if state else ""
    raise ZsemError(
        f"{path} holds no network that zsem knows{first}: DiffAE, guided-diffusion, improved-diffusion, P2, DDPM++ and "
        "diffusers' UNet2DModel are read"
    )


def _read_diffae(
    found: Imported, state: dict[str, Tensor], hyper: object, path: Path, options: Options
) -> tuple[str, str]:
    """A Lightning checkpoint of DiffAE: autoencoder, with or without latent network, or plain DDIM."""
    options.refuse("checkpoints of DiffAE", "rescale_timesteps", "head_channels")
    weights = options.weights or ("ema" if any(name.startswith("ema_model.") for name in state) else "raw")
    network = below(state, "ema_model." if weights == "ema" else "model.")
    if not network:
        raise ZsemError(f"{path} has no {weights} weights: choose the others with --weights")
    settings = hyper if isinstance(hyper, Mapping) else {}
    size = options.size or (state["x_T"].shape[-1] if "x_T" in state else None)
    told = Conventions(
        heads=Heads(number=_whole_number(settings, "net_beatgans_attn_head", 1, path)),
        schedule=_schedule(settings, "beta_scheduler", path),
    )
    conventions = told.changed(options)
    if "conds_mean" in state:
        _add_statistics(found, state, path)
    encoder, latent = below(network, "encoder."), below(network, "latent_net.")
    body = {k: v for k, v in network.items() if not k.startswith(("encoder.", "latent_net."))}
    time = "time_embed.time_embed" if "time_embed.time_embed.0.weight" in body else "time_embed"
    about = architecture.adm(shapes_of(body), heads=conventions.heads, image_size=size, time=time)
    legacy = conventions.legacy_heads
    if not encoder:
        model: DiffusionModel | DiffusionAutoencoder = _diffusion_model(about, conventions, path)
        fill(model.unet, layouts.adm(model.unet, time=time, legacy_heads=legacy), body, path)
        _add_model(found, model, path)
        return "diffae ddim", weights
    config = DiffusionAutoencoder.Config(
        image_size=about.image_size, image_channels=about.image_channels, prediction="eps", unet=about.net,
        schedule=conventions.schedule, z_dim=architecture.shape(shapes_of(encoder), "out.3.weight")[0],
        encoder=architecture.adm_encoder(
            shapes_of(encoder), image_size=about.image_size, heads=conventions.heads.number,
            blocks=_whole_number(settings, "net_enc_num_res_blocks", 0, path) or None,
        ),
    )  # fmt: skip
    model = skeleton(DiffusionAutoencoder, config, path)
    fill(model.unet, layouts.adm(model.unet, time=time, legacy_heads=legacy), body, path)
    fill(model.encoder, layouts.adm_encoder(model.encoder, legacy_heads=legacy), encoder, path, prefix="encoder.")
    model.z_mean, model.z_std = torch.zeros(config.z_dim), torch.ones(config.z_dim)
    _add_model(found, model, path)
    if latent:
        _read_latent(found, latent, settings, path)
    return "diffae latent" if latent else "diffae", weights


def _read_latent(found: Imported, state: dict[str, Tensor], settings: Mapping[str, Any], path: Path) -> None:
    # every `linear_emb` is stored twice
    state = {name: tensor for name, tensor in state.items() if ".cond_layers." not in name}
    net = architecture.latent(shapes_of(state))
    z_dim = architecture.shape(shapes_of(state), "layers.0.linear.weight")[1]
    schedule = _schedule(settings, "latent_beta_scheduler", path, "constant")
    prior = skeleton(LatentDiffusion, LatentDiffusion.Config(z_dim=z_dim, net=net, schedule=schedule), path)
    fill(prior.net, layouts.latent(prior.net), state, path, prefix="latent_net.")
    prior.z_mean, prior.z_std = torch.zeros(z_dim), torch.ones(z_dim)
    found.prior = prior


def _read_heads(found: Imported, state: dict[str, Tensor], path: Path, options: Options) -> tuple[str, str]:
    """DiffAE's linear classifier of z; the official notebooks use its last weights, not the averaged ones."""
    weights = options.weights or "raw"
    name = "ema_classifier" if weights == "ema" else "classifier"
    if f"{name}.weight" not in state or f"{name}.bias" not in state:
        raise ZsemError(f"{path} has no {name}: it is incomplete, download it again")
    found.weight, found.bias = (state[f"{name}.{part}"].to(torch.float32, copy=True) for part in ("weight", "bias"))
    _add_statistics(found, state, path)
    return "diffae classifier", weights


def _read_guided(found: Imported, state: dict[str, Tensor], path: Path, options: Options) -> str:
    """A flat state dict of guided-diffusion or improved-diffusion: a U-Net, or a classifier of noisy images."""
    classifier = not any(name.startswith("output_blocks.") for name in state)
    if classifier:
        options.refuse("a classifier, whose position embedding tells the size", "size")
    about = architecture.adm(shapes_of(state), heads=Heads(), image_size=options.size)
    conventions = of_guided_diffusion(about, classifier=classifier).changed(options)
    about = replace(about, net=conventions.put(about.net))
    found.notes.append(f"{path.name}: assumed {conventions}, {about.image_size} px, as its kind is published")
    model: NoisyClassifier | DiffusionModel
    if classifier:
        config = NoisyClassifier.Config(
            image_size=about.image_size, image_channels=about.image_channels, num_outputs=about.out_channels,
            net=about.net, schedule=conventions.schedule,
        )  # fmt: skip
        model = skeleton(NoisyClassifier, config, path)
        network: HalfUNet = model.net
    else:
        model = _diffusion_model(about, conventions, path)
        network = model.unet
    fill(network, layouts.adm(network, legacy_heads=conventions.legacy_heads), state, path)
    _add_model(found, model, path)
    return "guided-diffusion classifier" if classifier else "guided-diffusion"


def _read_ddpm(found: Imported, state: dict[str, Tensor], path: Path, options: Options) -> str:
    """A flat state dict of DDPM's PyTorch port."""
    options.refuse("DDPM++", "rescale_timesteps", "attention_order")
    conventions = ONE_HEAD.changed(options)
    about = architecture.ddpm(shapes_of(state), heads=conventions.heads, image_size=options.size)
    model = _diffusion_model(about, conventions, path)
    fill(model.unet, layouts.ddpm(model.unet), state, path)
    found.notes.append(f"{path.name}: assumed {conventions}, {about.image_size} px, as its kind is published")
    _add_model(found, model, path)
    return "ddpm"


def _diffusion_model(about: architecture.Architecture, conventions: Conventions, path: Path) -> DiffusionModel:
    c, out = about.image_channels, about.out_channels
    # super-resolution models are given the small image beside the noisy one
    if out not in {c, 2 * c} or (c, out) == (6, 6):
        raise ZsemError(
            f"{path} answers with {out} channels for {c}: such networks (for super-resolution) are not read"
        )
    config = DiffusionModel.Config(
        image_size=about.image_size, image_channels=c, prediction="eps", unet=about.net,
        schedule=conventions.schedule, learned_range=out == 2 * c, class_dropout=0.0,
    )  # fmt: skip
    return skeleton(DiffusionModel, config, path)


def _whole_number(settings: Mapping[str, Any], key: str, default: int, path: Path) -> int:
    value = settings.get(key, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ZsemError(f"{path} says that its {key} is {value!r}: it is damaged, download it again")
    return value


def _schedule(
    settings: Mapping[str, Any], key: str, path: Path, kind: Literal["linear", "constant"] = "linear"
) -> NoiseSchedule.Config:
    """DiffAE's name of a schedule: linear, cosine, or const and the beta; `kind` where it is not said."""
    name, timesteps = settings.get(key) or kind, _whole_number(settings, "T", 1000, path)
    if name in ("linear", "cosine", "constant"):
        return scaled(name, timesteps)
    try:
        return scaled("constant", timesteps, float(str(name).removeprefix("const")))
    except ValueError:
        raise ZsemError(f"{path} was trained with a noise schedule {name!r}, which zsem does not have") from None


def _add_model(found: Imported, model: Model, path: Path) -> None:
    if found.model is not None:
        raise ZsemError(f"{path} holds a second model: import one at a time")
    found.model = model


def _add_statistics(found: Imported, content: Mapping[str, Any], path: Path) -> None:
    mean, std = content.get("conds_mean"), content.get("conds_std")
    if not isinstance(mean, Tensor) or not isinstance(std, Tensor) or mean.numel() != std.numel():
        raise ZsemError(f"{path} lacks the statistics of z (conds_mean and conds_std of one length): download it again")
    mean, std = (value.to(torch.float32, copy=True).flatten() for value in (mean, std))
    if found.z_mean is not None and found.z_std is not None:
        alike = mean.shape == found.z_mean.shape
        if not (
            alike and torch.allclose(mean, found.z_mean, atol=1e-4) and torch.allclose(std, found.z_std, atol=1e-4)
        ):
            raise ZsemError(f"{path} has other statistics of z than the files before it: they do not belong together")
        return
    found.z_mean, found.z_std = mean, std


def _settle_statistics(found: Imported) -> None:
    """Give the statistics of z to what needs them."""
    mean, std = found.z_mean, found.z_std
    for model in (found.model, found.prior):
        if not isinstance(model, (DiffusionAutoencoder, LatentDiffusion)):
            continue
        if mean is not None and std is not None:
            if mean.shape != model.z_mean.shape:
                raise ZsemError(
                    f"the statistics are of {len(mean)} numbers and z has {len(model.z_mean)}: the files do not "
                    "belong together"
                )
            model.z_mean, model.z_std = mean.clone(), std.clone()
        elif isinstance(model, LatentDiffusion):
            raise ZsemError(
                "the latent network works on normalised codes and no file has their statistics: give latent.pkl as well"
            )
        else:
            found.notes.append(
                "no file has the statistics of z, so probes and edits are not scaled: give latent.pkl as well"
            )


def _flat_state(content: object, wanted: str | None = None) -> tuple[dict[str, Tensor], str]:
    """The tensors of one network, from the containers that training scripts put them into.

    wanted: "ema" or "raw", averaged where None. Returns also which of the two they are, "" where there is no choice.
    """
    sets: dict[str, Any] = {}
    if isinstance(content, (list, tuple)) and content:
        sets["raw"] = content[0]  # ermongroup/ddim: [network, optimiser, epoch, step, averaged network]
        if len(content) > 4:
            sets["ema"] = content[4]
    elif isinstance(content, Mapping):
        state = tensors(content)
        if state:
            return {name.removeprefix("module."): tensor for name, tensor in state.items()}, ""
        for kind, keys in (("ema", AVERAGED), ("raw", LAST)):
            there = [content[key] for key in keys if isinstance(content.get(key), Mapping)]
            sets |= {kind: there[0]} if there else {}
    if not sets:
        return {}, ""
    kind = wanted or ("ema" if "ema" in sets else "raw")
    if kind not in sets:
        raise ZsemError(f"the file has no {kind} weights: choose the others with --weights")
    return _flat_state(sets[kind])[0], kind if len(sets) > 1 else ""


def tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The named tensors of a mapping."""
    return {name: value for name, value in values.items() if isinstance(name, str) and isinstance(value, Tensor)}


def below(state: Mapping[str, ValueT], prefix: str) -> dict[str, ValueT]:
    """What has a name that begins with `prefix`, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Shapes by name."""
    return {name: tensor.shape for name, tensor in state.items()}
