"""Priors over semantic codes, which make the autoencoder generative (DiffAE, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from zsem.diffusion.denoiser import NetworkDenoiser, bind
from zsem.diffusion.guidance import SemanticGuidance
from zsem.diffusion.schedule import NoiseSchedule, Spacing
from zsem.diffusion.solvers import last
from zsem.models.base import Model
from zsem.models.imaging import evaluation
from zsem.models.walking import Walking
from zsem.nets.latent import LatentNet
from zsem.values import draws
from zsem.values.errors import ZsemError
from zsem.values.prediction import BoundDenoiser, Condition

LogP = Callable[[Tensor], Tensor]
"""Natural log of the probability, at most 0, that raw codes z [n, d] have what is asked for: [n], differentiable."""
Method = Literal["auto", "rejection", "tilt", "guidance"]
Name = tuple[int, ...]
Propose = Callable[[Sequence[Name]], tuple[Tensor, Tensor]]
"""Names of draws to codes [n, d], and the log-probability with which each is to be accepted [n]."""

CODE_DRAW, ACCEPT_DRAW = 11, 12  # the last integer of a name (seed, position, trial, ..): what the draw is for
TRIES = 1000  # codes that are drawn for a sample at most
ROWS = 4096  # codes that are drawn at once
HOPELESS = 4  # times TRIES: after so many codes of which none was accepted none is expected


class Prior(Model):
    """A distribution of semantic codes that can be sampled, also under conditions.

    z_mean, z_std: statistics of the codes that it was fitted to, with which they are normalised, [d].
    history: "model" is the stamp of the autoencoder whose codes they are.
    """

    methods: ClassVar[tuple[Method, ...]]
    """Ways to meet a condition, the best one first among those that are exact."""

    def __init__(self, config: object, z_dim: int) -> None:
        """Raises ZsemError for codes of no numbers."""
        super().__init__(config)
        if z_dim < 1:
            raise ZsemError(f"z_dim must be at least 1, not {z_dim}")
        self.z_mean: Tensor
        self.z_std: Tensor
        self.register_buffer("z_mean", torch.zeros(z_dim))
        self.register_buffer("z_std", torch.ones(z_dim))

    def sample(
        self,
        number: int,
        *,
        seed: int = 0,
        steps: int = 100,
        where: LogP | None = None,
        truncation: float | int = 1.0,
        first: int = 0,
        method: Method = "auto",
        scale: float | int = 1.0,
        solver: str = "ddim",
        spacing: Spacing | None = None,
    ) -> Float[Tensor, "n d"]:
        """New semantic codes as the encoder would give them (not normalised); each a function of (seed, position).

        where: log p(what is asked for | z); the codes are samples of p(z) p(what is asked for | z), normalised.
        truncation: 1 = none; less draws codes nearer to typical ones (see the kinds), 0 nothing but those.
        first: position of the first code, so that many can be drawn in parts.
        method: how `where` is met. "rejection" draws codes and keeps each with its probability (exact; takes as many
            more as what is asked for is rare); "tilt" is exact too and needs fewer, for mixtures and linear logits
            (`Logistic`); "guidance" steers the latent DDIM (fast and approximate); "auto" is the quickest exact one.
        scale: strength of the guidance, 1 = as probable as `where` says.
        solver, steps, spacing: of the latent DDIM, see `Walking`; a mixture needs none. By default ddim and ddpm have
            uniform steps, as published, and the others, which extrapolate from step to step, steps in log-SNR.
        Raises ZsemError for settings that make no sense or that this kind does not have, and where codes with what is
            asked for are too rare to be found; ValueError where `where` answers with no log-probabilities.
        """
        spacing = spacing or ("uniform" if solver in {"ddim", "ddpm"} else "logsnr")
        walking = Walking(solver=solver, steps=steps, spacing=spacing, clip=False)
        walking.check_solver()
        if number < 1:
            raise ZsemError(f"ask for at least one code, not {number}")
        if not 0 <= truncation <= 1:
            raise ZsemError(f"truncation lies from 0 (typical codes alone) to 1 (none), not at {truncation:g}")
        if where is None:
            propose = self.proposals(None, "rejection", scale, truncation, walking)
        else:
            propose = self.proposals(where, self.chosen(method, where), scale, truncation, walking)
        with evaluation(self):
            return accepted(propose, range(first, first + number), seed=seed)

    def chosen(self, method: Method, where: LogP) -> Method:
        """The method to meet a condition with; raises ZsemError for one that this kind of prior does not have."""
        if method == "auto":
            return self.methods[0]
        if method not in self.methods:
            raise ZsemError(f"a {self.kind} meets conditions by {' or '.join(self.methods)}, not by {method}")
        return method

    def proposals(
        self, where: LogP | None, method: Method, scale: float | int, truncation: float | int, walking: Walking
    ) -> Propose:
        """What draws codes to accept or not, for arguments of `sample`."""

        def propose(names: Sequence[Name]) -> tuple[Tensor, Tensor]:
            z = self.draw(names, truncation, walking)
            return z, torch.zeros(len(z)) if where is None else probabilities(where, z)

        return propose

    def draw(self, names: Sequence[Name], truncation: float | int, walking: Walking) -> Float[Tensor, "n d"]:
        """Unconditional raw codes on the CPU, each a function of its name."""
        raise NotImplementedError


class LatentDiffusion(Prior):
    """The latent DDIM: a diffusion model of normalised z_sem, as published with its autoencoder.

    Truncation makes the initial noise smaller.
    """

    kind = "latent_diffusion"
    methods = ("rejection", "guidance")

    @dataclass(frozen=True, kw_only=True)
    class Config:
        z_dim: int = 512
        """length of the semantic code"""
        net: LatentNet.Config = field(default_factory=LatentNet.Config)
        """the network"""
        prediction: Literal["eps", "v", "x0"] = "eps"
        """what the network predicts; eps in the paper"""
        schedule: NoiseSchedule.Config = field(default_factory=lambda: NoiseSchedule.Config(kind="constant"))
        """noise levels, constant beta 0.008 in the paper"""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.z_dim)
        self.net = LatentNet(config.net, z_dim=config.z_dim)
        self.schedule = NoiseSchedule(config.schedule)

    @property
    def denoiser(self) -> NetworkDenoiser:
        """The network as a denoiser of normalised codes, [b, d, 1, 1]."""
        return self.denoiser_of(self.net)

    def denoiser_of(self, net: nn.Module) -> NetworkDenoiser:
        """The same for a network like it, e.g. a copy that is being trained."""

        def network(z_t: Tensor, t: Tensor, _: Condition) -> Tensor:
            return net(z_t[:, :, 0, 0], t)[:, :, None, None]

        return NetworkDenoiser(network, self.schedule, self.config.prediction)

    def normalise(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n d 1 1"]:
        """Raw codes as the denoiser sees them, on the model's device."""
        return ((z.to(self.device) - self.z_mean) / self.z_std)[:, :, None, None]

    def raw(self, x0: Float[Tensor, "n d 1 1"]) -> Float[Tensor, "n d"]:
        """The reverse of `normalise`; differentiable."""
        return x0[:, :, 0, 0].float() * self.z_std + self.z_mean

    def proposals(
        self, where: LogP | None, method: Method, scale: float | int, truncation: float | int, walking: Walking
    ) -> Propose:
        """Rejection as in the base; under guidance everything that is drawn is accepted."""
        if where is None or method != "guidance":
            return super().proposals(where, method, scale, truncation, walking)

        def log_p(x0: Tensor) -> Tensor:
            return where(self.raw(x0))

        # the gradient of the condition at the predicted x0, as classifier guidance of a denoised classifier has it
        guided = SemanticGuidance(bind(self.denoiser, Condition()), [(scale, log_p)])

        def propose(names: Sequence[Name]) -> tuple[Tensor, Tensor]:
            return self.draw(names, truncation, walking, guided), torch.zeros(len(names))

        return propose

    def draw(
        self,
        names: Sequence[Name],
        truncation: float | int,
        walking: Walking,
        denoise: BoundDenoiser | None = None,
    ) -> Float[Tensor, "n d"]:
        """Codes by a solver (DiffAE, supplement A.1), also under the guidance of a denoiser of one's own."""
        shape = (self.config.z_dim, 1, 1)

        def noise(step: int) -> Tensor:
            return truncation * draws.normal([(*name, step) for name in names], shape)

        x_T = truncation * draws.normal(names, shape).to(self.device)
        walk = walking.walk(denoise or bind(self.denoiser, Condition()), x_T, self.schedule, noise)
        return self.raw(last(walk)[0]).cpu()


def accepted(propose: Propose, positions: range, *, seed: int, tries: int = TRIES) -> Float[Tensor, "n d"]:
    """For each position the first of its proposals that is accepted; trial k of it is named (seed, position, k, ..).

    So many are proposed at once as positions wait for, which changes no result: trials have their own names.
    Raises ZsemError where some positions have none after `tries` proposals, or next to nothing is ever accepted.
    """
    found: dict[int, Tensor] = {}
    waiting, tried, proposed, taken, block = list(positions), 0, 0, 0, 1
    while waiting:
        hopeless = taken == 0 and proposed >= HOPELESS * tries
        if tried >= tries or hopeless:
            share = f"{100 * taken / proposed:.2g} %" if taken else "none"
            raise ZsemError(
                f"what is asked for is too rare: {share} of {proposed} codes that were drawn were accepted, and "
                f"{len(waiting)} of {len(positions)} samples found no code; ask for fewer attributes at once, or "
                "guide a latent DDIM (method guidance)"
            )
        block = min(block, tries - tried, max(1, ROWS // len(waiting)))
        trials = range(tried, tried + block)
        tried += block
        still: list[int] = []
        for start in range(0, len(waiting), ROWS):
            part = waiting[start : start + ROWS]
            names = [(seed, position, trial) for position in part for trial in trials]
            codes, log_p = propose([(*name, CODE_DRAW) for name in names])
            good = drawn_below(names, log_p).view(len(part), block)
            proposed, taken = proposed + len(names), taken + int(good.sum())
            first_good = good.int().argmax(dim=1) + block * torch.arange(len(part))
            for position, any_good, row in zip(part, good.any(dim=1).tolist(), first_good.tolist(), strict=True):
                if any_good:
                    found[position] = codes[row]
                else:
                    still.append(position)
        waiting, block = still, 2 * block
    return torch.stack([found[position] for position in positions])


def drawn_below(names: Sequence[Name], log_p: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether each name's uniform draw lies below exp(log_p); nothing is drawn for what is certain."""
    rows = (log_p < 0).nonzero()[:, 0].tolist()
    good = torch.ones(len(names), dtype=torch.bool)
    uniform = torch.tensor([draws.generator(*names[row], ACCEPT_DRAW).random() for row in rows], dtype=torch.float64)
    good[rows] = uniform < log_p[rows].double().exp()
    return good


def probabilities(where: LogP, z: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """What a condition says of codes. Raises ValueError where that is no log-probability for each."""
    log_p = where(z)
    if log_p.shape != (len(z),) or not bool((log_p <= 1e-6).all()):  # NaN is refused too
        raise ValueError("a condition must answer with one log-probability, at most 0, for every code")
    return log_p.detach().cpu()
