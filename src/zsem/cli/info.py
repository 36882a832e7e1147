"""`zsem info`: what a model is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from zsem.cli.command import Command, Report

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Info(Command):
    """Show a model's configuration, size, training, statistics of its codes, files, and whether its z is used."""

    model: Annotated[Positional[str], arg(metavar="RUN")]
    """folder of a trained model, its name on the Hugging Face hub, or a model that zsem comes with"""

    def run(self) -> Report:
        from zsem import api
        from zsem.metrics.health import verdict
        from zsem.models.base import find_model

        model = api.load(self.model, device="cpu")
        folder = find_model(self.model)
        figures = {
            "kind": model.kind,
            "stamp": model.stamp,
            "parameters": {
                name: sum(p.numel() for p in network.parameters()) for name, network in model.named_children()
            },
            "history": model.history,
            **({"z": statistics(model.z_mean, model.z_std)} if hasattr(model, "z_mean") else {}),
            **parts_of(folder),
            "config": asdict(model.config),
            "files": {path.name: path.stat().st_size for path in sorted(folder.glob("*")) if path.is_file()},
        }
        rows = [{self.model: name, "": text} for name, text in flat(figures)]
        z = model.history.get("validation", {}).get("z")
        return Report(figures=figures, rows=rows, notes=[] if z is None else [verdict(z["ratio"], z["used"])])


def parts_of(folder: Path) -> dict[str, Any]:
    """What else lies in a run: a prior, attributes that were learned, directions that were imported."""
    from zsem.models.base import read_config
    from zsem.semantics.attributes import FILE, IMPORTED, read_semantics
    from zsem.values.direction import load_directions

    prior, learned, directions = folder / "prior", folder / "semantics" / FILE, folder / "semantics" / IMPORTED
    return {
        **({"prior": read_config(prior)["kind"]} if prior.is_dir() else {}),
        **({"attributes": list(read_semantics(learned).attributes)} if learned.exists() else {}),
        **({"directions": [d.name for d in load_directions(directions)]} if directions.exists() else {}),
    }


def statistics(mean: Tensor, std: Tensor) -> dict[str, float | int]:
    """What is worth showing of the statistics of codes."""
    return {
        "dim": len(mean), "mean_norm": mean.norm().item(), "std_min": std.min().item(), "std_max": std.max().item(),
    }  # fmt: skip


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted names with texts."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            yield prefix + name, f"{value:.6g}"
        elif isinstance(value, int) and not isinstance(value, bool):
            yield prefix + name, f"{value:,}"
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, float) for item in value):
            yield prefix + name, ", ".join(f"{item:.4g}" for item in value)
        else:
            yield prefix + name, str(value)
