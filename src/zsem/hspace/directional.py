"""Learning an edit from an embedding: the loss of Asyrp's f_t (2210.10960, section 3.3), also for all weights at once.

The same loss serves two things to train: a shift of the bottleneck of a frozen model (Asyrp), and the weights of its
U-Net (DiffusionCLIP, 2110.02711).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from zsem.diffusion.denoiser import NetworkDenoiser
from zsem.diffusion.schedule import TimeGrid, level_like
from zsem.hspace.editable import Editable
from zsem.hspace.embeddings import Goal, frozen
from zsem.hspace.engine import predictions
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.imaging import Progress
from zsem.models.shift import Mode
from zsem.values.codes import Codes
from zsem.values.direction import Shift
from zsem.values.errors import ZsemError
from zsem.values.objective import Batch, Phase
from zsem.values.prediction import Condition, Prediction

Form = Literal["linear", "logarithmic"]
KEPT_BYTES = 2**31
"""How much memory the predictions of the plain process may take; where they are more, they are made every time."""
TINY = 1e-6
Onward = tuple[Tensor, Tensor]
"""x0 and eps that the next state is made of, which do not belong together in the asymmetric process."""


@dataclass(frozen=True)
class Sources:
    """What the plain process predicts of some images at every timestep that is edited.

    x0: [b, s, c, h, w], without padding. embedded: what the change of the embedding is measured from, [b, s, d].
    """

    x0: Float[Tensor, "b s c h w"]
    embedded: Float[Tensor, "b s d"]


@dataclass(frozen=True)
class State:
    """Where a walk is, and where it was one node before; at its start the same. Both [b, c, h, w]."""

    x: Tensor
    noisier: Tensor

    def of(self, rows: Int[Tensor, " b"], device: torch.device) -> State:
        """Of some of the images."""
        return State(self.x[rows].to(device), self.noisier[rows].to(device))

    @staticmethod
    def cat(parts: Sequence[State]) -> State:
        """Join along the batch."""
        return State(torch.cat([one.x for one in parts]), torch.cat([one.noisier for one in parts]))


class DirectionalObjective:
    """One loss per timestep, on the predicted x0 of the edited process, with a step of the optimiser after each.

    A batch is that of the numbers of codes, [b, 1, 1, 1]: the walk is from their noise. The states of the walk take no
    gradient, so that each passes back through one evaluation of the network alone.
    optimiser: the name of the only one.
    """

    optimiser: ClassVar[str]

    @dataclass(frozen=True, kw_only=True)
    class Config:
        form: Form = "linear"
        """of the directional loss: 1 - cos, as in the paper, or -log((1 + cos) / 2), as in its code"""
        source: Literal["predicted", "image"] = "predicted"
        """what the change is measured from: x0 of the plain process at the same timestep, as in the paper, or the real
        image, as in its code"""
        mode: Mode = "symmetric"
        """whether the edited eps stands in both halves of a step, or in the predicted x0 alone, as published"""
        gain: float = 1.0
        """symmetric: how many times what the edit changes in eps is carried on; the loss is of what it changes once"""
        t_edit: float = 0.0
        """the last timestep that is edited"""
        t_start: float | None = None
        """the first timestep that is edited, DiffusionCLIP's t_0; None = the noisiest"""
        direction_weight: float = 1.0
        """of the directional loss"""
        reach_weight: float = 1.0
        """of how far from the goal's reach the edit ends, as a share of that; nothing where it has none"""
        reconstruction_weight: float = 3.0
        """of the mean absolute change of the predicted x0, times the goal's closeness"""

    def __init__(
        self,
        model: Editable,
        network: nn.Module,
        codes: Codes,
        goal: Goal,
        config: Config,
        *,
        conditions: Condition | None = None,
        images: Float[Tensor, "n c h w"] | None = None,
        signs: Float[Tensor, " n"] | None = None,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> None:
        """The plain process is walked here, once for all codes, where its predictions fit into memory.

        model: of which a copy is kept as it is. network: what is trained.
        codes: of images, with noise; the walk is over their timesteps.
        conditions: what the network is told for all codes; by default their z, or nothing.
        images: the originals in [-1, 1], which the source "image" needs.
        signs: 1, or -1 where the shift is taken away and the embedding should go the other way; by default all 1.
        batch_size, progress: of that walk.
        Raises ZsemError where no timestep is edited; ValueError for codes without noise or of another model, and where
        the images are missing.
        """
        if codes.noise is None or (codes.model and codes.model != model.stamp):
            raise ValueError("an edit is learned on codes with noise, of the model that is edited")
        if config.source == "image" and (images is None or len(images) != len(codes)):
            raise ValueError("the source 'image' needs the original of every code")
        self.model, self.network, self.goal, self.config = frozen(model), network, goal, config
        self._images, self._signs = images, signs
        told = Condition(z=codes.z if isinstance(model, DiffusionAutoencoder) else None)
        self._told = told if conditions is None else conditions
        self.grid = TimeGrid.from_levels(
            model.schedule, t=torch.tensor(codes.timesteps, dtype=torch.float64), clean=True
        )
        levels = codes.timesteps
        first = next((i for i, t in enumerate(levels) if config.t_start is None or t <= config.t_start), len(levels))
        self.nodes = [i for i in range(first, len(levels)) if levels[i] >= config.t_edit]
        if not self.nodes:
            raise ZsemError(f"no noise level lies at or above t_edit = {config.t_edit:g}: lower it, or take more steps")
        everything = torch.arange(len(codes)).split(batch_size)
        self._carry = codes.noise.carry
        self._start = State(codes.noise.x_T, codes.noise.x_T)
        if first > 0:
            self._start = State.cat([self._ahead(rows, first) for rows in everything])
        self._kept: Sources | None = None
        if 4 * len(codes) * len(self.nodes) * codes.noise.x_T[0].numel() <= KEPT_BYTES:
            self._kept = self._all_sources(everything, progress)

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {self.optimiser: self.network}

    def phases(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Iterator[Phase]:
        """One for every timestep that is edited, the noisiest first."""
        network = networks[self.optimiser]
        rows = batch.images.flatten().long()
        cond, sources = self._condition(rows), self._sources(rows)
        state = self._start.of(rows, self.model.device)
        for place, node in enumerate(self.nodes):
            onward, edited = self._predict(network, state.x, self._t(node, state.x), cond, rows)
            source = Sources(sources.x0[:, place, None], sources.embedded[:, place, None])
            yield Phase(loss=self._losses(edited.x0, source, rows).mean(), optimiser=self.optimiser)
            state = self._next(rows, node, state, *onward)

    @torch.no_grad()
    def ends(
        self, network: nn.Module, rows: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """What the plain process and the edited one predict of some of the codes at the last edited timestep."""
        cond, state = self._condition(rows), self._start.of(rows, self.model.device)
        x0 = state.x
        for node in self.nodes:
            onward, edited = self._predict(network, state.x, self._t(node, state.x), cond, rows)
            x0 = self.model.crop(edited.x0)
            state = self._next(rows, node, state, *onward)
        return self._sources(rows).x0[:, -1], x0

    @torch.no_grad()
    def figures(self, network: nn.Module, rows: Int[Tensor, " b"]) -> dict[str, float]:
        """How far `network` brings some of the codes, by the last timestep that is edited; means over them.

        "cosine": of the change of the embedding and the direction. "progress": how far it goes along it, as a share of
            the reach, where that is known. "change": absolute, of the predicted x0.
        """
        plain, edited = self.ends(network, rows)
        change, goal = self._towards(edited, self._sources(rows).embedded[:, -1], rows), self.goal
        found = {
            "cosine": float(1 - directional_loss(change, goal.direction.to(change), "linear").mean()),
            "change": float((edited - plain).abs().mean()),
        }
        return found if goal.reach is None else {**found, "progress": float(goal.progress(change).mean()) / goal.reach}

    def _predict(
        self, network: nn.Module, x_t: Tensor, t: Tensor, cond: Condition, rows: Int[Tensor, " b"]
    ) -> tuple[Onward, Prediction]:
        """What leads to the next state, and what the loss is of."""
        raise NotImplementedError

    def _further(self, plain: Prediction, edited: Prediction, x_t: Tensor, t: Tensor) -> Onward:
        """What is carried on: the plain prediction and `gain` times what the edit changes in it."""
        alpha, sigma = level_like(self.model.schedule, t, x_t)
        found = plain.steer(self.config.gain * (edited.eps - plain.eps), sigma / alpha)
        return found.x0, found.eps

    def _towards(
        self, x0: Float[Tensor, "b c h w"], source: Float[Tensor, "b d"], rows: Int[Tensor, " b"]
    ) -> Float[Tensor, "b d"]:
        """The change of the embedding, turned round where the goal is."""
        change = self.goal.embedding(x0) - source
        return change if self._signs is None else change * self._signs[rows].to(change)[:, None]

    def _losses(self, x0: Float[Tensor, "b c h w"], source: Sources, rows: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The loss of every image at one timestep."""
        config, x0 = self.config, self.model.crop(x0)
        change = self._towards(x0, source.embedded[:, 0], rows)
        losses = config.direction_weight * directional_loss(change, self.goal.direction.to(change), config.form)
        if self.goal.reach is not None and config.reach_weight > 0:
            losses = losses + config.reach_weight * (1 - self.goal.progress(change) / self.goal.reach).abs()
        moved = (x0 - source.x0[:, 0]).abs().mean(dim=(1, 2, 3))
        return losses + config.reconstruction_weight * self.goal.closeness * moved

    def _sources(self, rows: Int[Tensor, " b"]) -> Sources:
        """Of some of the codes, on the model's device."""
        device = self.model.device
        if self._kept is None:
            return self._walked(rows)
        return Sources(self._kept.x0[rows].to(device), self._kept.embedded[rows].to(device))

    def _all_sources(self, parts: Sequence[Int[Tensor, " _"]], progress: Progress | None) -> Sources:
        """Of all codes, on the CPU."""
        found = []
        for rows in parts:
            found.append(self._walked(rows))
            if progress is not None:
                progress(int(rows[-1]) + 1, int(parts[-1][-1]) + 1)
        return Sources(torch.cat([one.x0.cpu() for one in found]), torch.cat([one.embedded.cpu() for one in found]))

    @torch.no_grad()
    def _ahead(self, rows: Int[Tensor, " b"], node: int) -> State:
        """The plain process from x_T to a node, on the CPU."""
        cond, state = self._condition(rows), self._start.of(rows, self.model.device)
        for passed in range(node):
            prediction = self.model.denoiser(state.x, self._t(passed, state.x), cond)
            state = self._next(rows, passed, state, prediction.x0, prediction.eps)
        return State(state.x.cpu(), state.noisier.cpu())

    @torch.no_grad()
    def _walked(self, rows: Int[Tensor, " b"]) -> Sources:
        """Of some of the codes, by walking the plain process."""
        cond, state = self._condition(rows), self._start.of(rows, self.model.device)
        found = []
        for node in self.nodes:
            prediction = self.model.denoiser(state.x, self._t(node, state.x), cond)
            found.append(self.model.crop(prediction.x0))
            state = self._next(rows, node, state, prediction.x0, prediction.eps)
        x0 = torch.stack(found, dim=1)
        if self._images is not None and self.config.source == "image":
            embedded = self.goal.embedding(self._images[rows].to(x0))[:, None].expand(-1, len(found), -1)
        else:
            embedded = torch.stack([self.goal.embedding(one) for one in found], dim=1)
        return Sources(x0, embedded)

    def _condition(self, rows: Int[Tensor, " b"]) -> Condition:
        z, classes = self._told.z, self._told.classes
        device = self.model.device
        return Condition(
            z=None if z is None else z.to(device)[rows], classes=None if classes is None else classes.to(device)[rows]
        )

    def _t(self, node: int, x: Tensor) -> Float[Tensor, " b"]:
        return self.grid.t[node].to(x).expand(len(x))

    def _next(self, rows: Int[Tensor, " b"], node: int, state: State, x0: Tensor, eps: Tensor) -> State:
        """One step of the codec that made the codes: O-BELM where they have a carry (`codecs.Exact`), or DDIM.

        So the plain process ends in the images themselves, and the edited one is the one that edits later take.
        """
        alpha, u = self.grid.alpha.tolist(), self.grid.u.tolist()
        ahead, r = u[node] - u[node + 1], 0.0
        onto = x0 + u[node] * eps  # x / alpha, but for what an asymmetric edit changes
        if self._carry is not None and node > 0:
            r = ahead / (u[node - 1] - u[node])
            onto = onto + r**2 * (state.noisier / alpha[node - 1] - state.x / alpha[node])
        x = alpha[node + 1] * (onto - (1 + r) * ahead * eps)
        if self._carry is not None and node == 0:
            x = x + self._carry[rows].to(x)
        return State(x.detach(), state.x)


class ShiftObjective(DirectionalObjective):
    """Trains f_t. An evaluation of the U-Net per loss, and its decoder once more where the plain eps is wanted."""

    optimiser = "shift"

    def _predict(
        self, network: nn.Module, x_t: Tensor, t: Tensor, cond: Condition, rows: Int[Tensor, " b"]
    ) -> tuple[Onward, Prediction]:
        mode, gain = self.config.mode, self.config.gain
        assert isinstance(network, Shift)
        shift: Shift = network if self._signs is None else _Signed(network, self._signs[rows].to(x_t))
        wanted = mode == "asymmetric" or gain != 1
        plain, shifted = predictions(self.model.denoiser, x_t, t, cond, shift, plain=wanted)
        if plain is None:
            return (shifted.x0, shifted.eps), shifted
        if mode == "asymmetric":
            return (shifted.x0, plain.eps), shifted
        return self._further(plain, shifted, x_t, t), shifted


@dataclass(frozen=True)
class _Signed:
    """A shift that is taken away from some images of a batch."""

    shift: Shift
    signs: Float[Tensor, " b"]

    def __call__(self, h: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        return self.shift(h, t) * self.signs[:, None, None, None]


class TuningObjective(DirectionalObjective):
    """Trains all weights of a U-Net: DiffusionCLIP, with one loss per timestep as in its memory-saving version."""

    optimiser = "unet"

    def _predict(
        self, network: nn.Module, x_t: Tensor, t: Tensor, cond: Condition, rows: Int[Tensor, " b"]
    ) -> tuple[Onward, Prediction]:
        """Raises ValueError for an asymmetric process, or signs: new weights have one prediction for all images."""
        if self.config.mode != "symmetric" or self._signs is not None:
            raise ValueError("new weights have one prediction: train them in the symmetric mode, without signs")
        tuned: NetworkDenoiser = replace(self.model.denoiser, network=network)
        prediction = tuned(x_t, t, cond)
        if self.config.gain == 1:
            return (prediction.x0, prediction.eps), prediction
        with torch.no_grad():
            plain = self.model.denoiser(x_t, t, cond)
        return self._further(plain, prediction, x_t, t), prediction


def directional_loss(change: Float[Tensor, "b d"], direction: Float[Tensor, " d"], form: Form) -> Float[Tensor, " b"]:
    """How far changes of embeddings point away from a direction: 0 = that way, the most = the opposite.

    linear: 1 - cos (2210.10960, equation 7). logarithmic: -log((1 + cos) / 2), as in the published code.
    """
    cos = F.cosine_similarity(change, direction[None], dim=1, eps=TINY)
    return 1 - cos if form == "linear" else -((1 + cos) / 2).clamp_min(TINY).log()
