"""Do guided-diffusion's sampling loops and ours make the same images? Random weights, the same noise at every step.

    python benchmarks/sampling_parity.py --reference CHECKOUT [--markdown FILE]

CHECKOUT: a copy of openai/guided-diffusion; the code in it is run. Small networks are built by the official classes,
all their weights drawn anew, and imported with `zsem import`'s code; then the official `p_sample_loop` or
`ddim_sample_loop` walks from x_T to images, and so do our solvers `ddpm` or `ddim`, with fixed and learned variances,
on all timesteps and on respaced ones, with and without classes, clipped and not, and with classifier guidance in both
forms. Compared is the state after every step, then the terms of the variational bound and the hybrid loss. The last
column says what the guidance changes in the images, in the same measure.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from import_parity import difference, draw, imported, tell
from torch import Tensor

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import ClassifierGuidance, Clip
from zsem.diffusion.likelihood import prior_term, vlb_terms
from zsem.diffusion.losses import hybrid_loss
from zsem.diffusion.posterior import Posteriors
from zsem.diffusion.schedule import TimeGrid
from zsem.diffusion.solvers import Step, ddim, ddpm, last
from zsem.interop.conventions import Options
from zsem.values.prediction import BoundDenoiser, Condition

TOLERANCE = 1e-4
BITS_TOLERANCE = 1e-3  # the official code approximates the normal distribution function
SIZE, IMAGES, SEED = 32, 2, 7


@dataclass(frozen=True, kw_only=True)
class Case:
    """One comparison. eta None is ancestral sampling; respacing and variance are named as the official flags are."""

    variance: str = "learned"
    respacing: str = "25"
    schedule: str = "linear"
    eta: float | None = None
    classes: bool = False
    clip: bool = True
    scale: float = 0.0

    @property
    def loop(self) -> str:
        return "p_sample_loop" if self.eta is None else f"ddim_sample_loop, eta {self.eta:g}"

    @property
    def guidance(self) -> str:
        form = "mean" if self.eta is None else "score"
        return f"{form}, scale {self.scale:g}" if self.scale else ""


CASES = [
    Case(),
    Case(respacing=""),
    Case(respacing="10,8,4,2"),
    Case(variance="small"),
    Case(variance="large"),
    Case(schedule="cosine"),
    Case(clip=False),
    Case(classes=True),
    Case(eta=0.0, respacing="ddim25"),
    Case(eta=0.0, respacing="ddim50", schedule="cosine"),
    Case(eta=1.0, respacing="ddim25"),
    Case(eta=0.5, respacing="25", classes=True),
    Case(scale=1.0, classes=True),
    Case(scale=10.0, classes=True, respacing="50"),
    Case(scale=4.0, variance="small"),
    Case(scale=4.0, variance="large"),
    Case(scale=4.0, clip=False),
    Case(scale=1.0, eta=0.0, respacing="ddim25", classes=True),
    Case(scale=10.0, eta=0.0, respacing="ddim25"),
    Case(scale=4.0, eta=1.0, respacing="ddim25", schedule="cosine"),
]


class Pair:
    """The same networks, theirs and ours: a U-Net and a classifier of noisy images, both small."""

    def __init__(self, case: Case) -> None:
        from guided_diffusion.script_util import create_gaussian_diffusion, create_model
        from guided_diffusion.unet import EncoderUNetModel

        learned, schedule = case.variance == "learned", case.schedule
        shared: dict[str, Any] = {"num_res_blocks": 1, "num_head_channels": 16, "resblock_updown": True}
        shared |= {"use_scale_shift_norm": True, "image_size": SIZE}
        self.network = draw(create_model(
            num_channels=32, channel_mult="1,2", learn_sigma=learned, class_cond=case.classes,
            attention_resolutions="16", **shared,
        ))  # fmt: skip
        self.judge = draw(EncoderUNetModel(
            in_channels=3, model_channels=32, out_channels=1000, attention_resolutions=(2,), channel_mult=(1, 2),
            pool="attention", **shared,
        ), seed=1)  # fmt: skip
        self.diffusion = create_gaussian_diffusion(
            steps=1000, learn_sigma=learned, sigma_small=case.variance == "small", noise_schedule=schedule,
            timestep_respacing=case.respacing,
        )  # fmt: skip
        options = Options(size=SIZE, head_channels=16, attention_order="legacy", schedule=schedule)
        self.model = imported(self.network.state_dict(), options).model
        self.classifier = imported(self.judge.state_dict(), replace(options, size=None)).model
        levels = torch.tensor(self.diffusion.timestep_map[::-1], dtype=torch.float64)
        self.grid = TimeGrid.from_levels(self.model.schedule, t=levels, clean=True)


def normal(seed: int) -> Callable[[int], Tensor]:
    """Their noise: torch's own, drawn at every step whether it is used or not."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor] = []

    def noise(step: int) -> Tensor:
        while len(drawn) <= step:
            drawn.append(torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator))
        return drawn[step]

    return noise


def official_loop(case: Case, pair: Pair, x_T: Tensor, y: Tensor) -> Iterator[dict[str, Tensor]]:
    """The states of the official loop."""

    def cond_fn(x: Tensor, t: Tensor, y: Tensor) -> Tensor:  # as in scripts/classifier_sample.py
        with torch.enable_grad():
            x_in = x.detach().requires_grad_(True)
            log_probs = torch.nn.functional.log_softmax(pair.judge(x_in, t), dim=-1)
            selected = log_probs[range(len(x)), y.view(-1)]
            return torch.autograd.grad(selected.sum(), x_in)[0] * case.scale

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return pair.network(x, t, y if case.classes else None)

    loop = pair.diffusion.p_sample_loop_progressive
    options: dict[str, Any] = {}
    if case.eta is not None:
        loop, options = pair.diffusion.ddim_sample_loop_progressive, {"eta": case.eta}
    torch.manual_seed(SEED)
    yield from loop(
        network, x_T.shape, noise=x_T, clip_denoised=case.clip, cond_fn=cond_fn if case.scale else None,
        model_kwargs={"y": y}, device=x_T.device, **options,
    )  # fmt: skip


def our_walk(case: Case, pair: Pair, x_T: Tensor, y: Tensor) -> Iterator[Step]:
    """The states of our solver; clipped before the guidance, as there."""
    denoise: BoundDenoiser = bind(pair.model.denoiser, Condition(classes=y if case.classes else None))
    denoise = Clip(denoise) if case.clip else denoise
    form: Any = "mean" if case.eta is None else "score"
    denoise = ClassifierGuidance(denoise, pair.classifier.log_prob(y), case.scale, form=form)
    if case.eta is None:
        return ddpm(denoise, x_T, pair.grid, noise=normal(SEED), variance=case.variance)
    return ddim(denoise, x_T, pair.grid, noise=normal(SEED), eta=case.eta)


def compare(case: Case) -> tuple[float, float, int]:
    """The largest difference over all states, what the guidance changes in the last one, and the number of steps."""
    pair, x_T = Pair(case), torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([3, 777])
    worst = 0.0
    for state, step in zip(official_loop(case, pair, x_T, y), our_walk(case, pair, x_T, y), strict=True):
        worst = max(worst, difference(step.x.float(), state["sample"]))
    if not case.scale:
        return worst, 0.0, pair.grid.steps
    free, _ = last(our_walk(replace(case, scale=0.0), pair, x_T, y))
    return worst, difference(free.float(), step.x.float()), pair.grid.steps


def bound(case: Case) -> tuple[float, float]:
    """The largest differences of the terms of the variational bound, in bits per dimension: divergences and decoder."""
    pair = Pair(case)
    levels = torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    x0 = levels / 127.5 - 1
    torch.manual_seed(SEED)
    theirs = pair.diffusion.calc_bpd_loop(pair.network, x0, clip_denoised=case.clip)
    denoise: BoundDenoiser = bind(pair.model.denoiser, Condition())
    noise, variance = normal(SEED), case.variance
    terms = torch.stack(
        list(vlb_terms(Clip(denoise) if case.clip else denoise, x0, pair.grid, noise=noise, variance=variance)), dim=1
    )
    errors = (terms - theirs["vb"]).abs() / theirs["vb"].abs().clamp(min=1)
    prior = float((prior_term(x0, pair.grid) - theirs["prior_bpd"]).abs().max())
    return max(prior, float(errors[:, :-1].max())), float(errors[:, -1].max())


def training(schedule: str) -> float:
    """The largest difference of the hybrid loss at timesteps but the first, whose decoder is approximated there."""
    from guided_diffusion.script_util import create_gaussian_diffusion

    pair, generator = Pair(Case(schedule=schedule)), torch.Generator().manual_seed(1)
    x0 = torch.randint(0, 256, (5, 3, SIZE, SIZE), generator=generator) / 127.5 - 1
    eps, t = torch.randn(x0.shape, generator=generator), torch.tensor([1, 5, 100, 600, 999])
    diffusion = create_gaussian_diffusion(learn_sigma=True, rescale_learned_sigmas=True, noise_schedule=schedule)
    posteriors = Posteriors.of_all(pair.model.schedule)
    with torch.no_grad():
        theirs = diffusion.training_losses(pair.network, x0, t, noise=eps)["loss"]
        ours = hybrid_loss(pair.model.denoiser, x0, eps, t, Condition(), posteriors)
    return float(((ours - theirs) / theirs).abs().max())


def measure() -> Iterator[tuple[str, float, float]]:
    """Rows of the table, differences, and what they may be."""
    for case in CASES:
        worst, effect, steps = compare(case)
        told = f"{case.schedule}, {steps} ({case.respacing or 'all'})"
        flags = ", ".join(["classes"] * case.classes + ["not clipped"] * (not case.clip))
        variance = case.variance if case.eta is None else "-"
        guidance = f"{effect:.1e}" if case.scale else ""
        line = f"| {case.loop} | {told} | {variance} | {case.guidance} | {flags} | {worst:.1e} | {guidance} |"
        yield line, worst, TOLERANCE
    for variance in ("learned", "small", "large"):
        case = Case(variance=variance, respacing="50", clip=variance != "small")
        told = f"{case.schedule}, 50 (50) | {variance} | | {'' if case.clip else 'not clipped'}"
        divergences, decoder = bound(case)
        yield f"| calc_bpd_loop, divergences | {told} | {divergences:.1e} | |", divergences, TOLERANCE
        yield f"| calc_bpd_loop, decoder | {told} | {decoder:.1e} | |", decoder, BITS_TOLERANCE
    for schedule in ("linear", "cosine"):
        worst = training(schedule)
        yield f"| training_losses, hybrid | {schedule}, 1000 (all) | learned | | | {worst:.1e} | |", worst, TOLERANCE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="CHECKOUT")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    if not (arguments.reference / "guided_diffusion" / "gaussian_diffusion.py").is_file():
        sys.exit(f"{arguments.reference} is no checkout of openai/guided-diffusion")
    sys.path.insert(0, str(arguments.reference.resolve()))
    heading = [
        "| official loop | timesteps | variance | guidance | | largest difference | effect of the guidance |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = ((line, worst > allowed) for line, worst, allowed in measure())
    return tell(heading, rows, arguments.markdown)


if __name__ == "__main__":
    sys.exit(main())
