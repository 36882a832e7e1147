"""`zsem import` and `zsem export`: foreign checkpoints in, diffusers pipelines out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report
from zsem.interop.conventions import GUESS, Options


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Turn foreign checkpoints into a model of zsem, without running anything that is in them.

    Reads official DiffAE checkpoints with their latent.pkl and classifier, guided-diffusion, improved-diffusion and P2
    models and noisy classifiers, DDPM++ (SDEdit), and diffusers' UNet2DModel. What files do not tell is assumed as
    their kind is published, and said; the options below say otherwise.
    """

    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE")]
    """checkpoint files that belong together, or a folder of diffusers"""
    out: Annotated[str, arg(metavar="RUN")]
    """folder for the model; an existing one takes a classifier or statistics that belong to it"""
    options: Annotated[Options, arg(name="")] = GUESS

    def run(self) -> Report:
        from zsem import api

        found = api.import_models(self.files, self.out, self.options)
        networks = [("model", found.model), ("prior", found.prior)]
        parts = [
            {
                "part": part, "kind": network.kind,
                "parameters": sum(p.numel() for p in network.parameters()), "stamp": network.stamp,
            }
            for part, network in networks
            if network is not None
        ]  # fmt: skip
        number = 0 if found.weight is None else len(found.weight)
        figures = {
            "out": self.out, "parts": parts, "directions": number, "origins": found.origins,
            "notes": [*found.notes, *found.left_out],
        }  # fmt: skip
        rows = [{**part, "parameters": f"{part['parameters']:,}"} for part in parts]
        notes = [
            *found.notes,
            *found.left_out,
            *([f"{number} directions of the classifier"] if number else []),
            f"model in {self.out}",
        ]
        return Report(figures=figures, rows=rows, notes=notes)


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a plain diffusion model as a DDPM pipeline of diffusers."""

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a model, or its name on the Hugging Face hub"""
    out: Annotated[str, arg(metavar="DIR")]
    """folder for the pipeline"""

    def run(self) -> Report:
        from zsem import api
        from zsem.interop import diffusers
        from zsem.models.imaging import ImageModel

        model = api.load(self.model, kind=ImageModel, device="cpu")
        folder = diffusers.write(model, self.out)
        how = f"UNet2DModel.from_pretrained({str(folder / 'unet')!r})"
        if model.config.unet.num_classes is None:
            how = f"DDPMPipeline.from_pretrained({str(folder)!r})"
        return Report(figures={"out": str(folder)}, notes=[f"{how} loads it"])
