"""The one training loop, for every Objective."""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from zsem.data.batches import Batches
from zsem.models.base import Model
from zsem.training import checkpoint, ema, posthoc
from zsem.training.callbacks import Callback
from zsem.training.course import rate_factor, time_goal
from zsem.training.finite import not_finite
from zsem.training.log import Log
from zsem.training.machine import bf16_is_fast, keep_freed_memory
from zsem.training.optimisers import OptimiserName, make_optimiser
from zsem.training.recompute import recompute_stages
from zsem.training.replicas import Replicas, how_many
from zsem.training.signals import StopRequest
from zsem.values.draws import generator
from zsem.values.errors import ZsemError
from zsem.values.objective import Adaptive, Objective, Phase

SAY_SECONDS = 5  # between lines of progress
DROPOUT_DRAW = 3  # the last integer of a draw's name: what the draw is for


class Loop:
    """Trains a model on an Objective until a number of iterations or minutes is reached, or a signal asks it to stop.

    Everything it writes lies in one run folder:
    config.json and model.safetensors (averaged weights, ready to load), metrics.jsonl, checkpoints/, averages/,
    snapshots/, pictures/.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        batch_size: int = 64
        """images per iteration, over all devices"""
        accumulate: int = 1
        """parts that a batch is gone through in, for less memory and the same gradient"""
        replicas: int | None = None
        """on a CPU: copies of the networks that share a batch, a thread each; by default as many as torch's threads"""
        checkpoint_stages: bool = False
        """compute the stages of U-Nets and encoders again for the gradient: less memory, a third more time"""
        optimiser: OptimiserName = "adamw"
        """AdamW, or plain gradient descent without momentum"""
        learning_rate: float = 4e-4
        """peak learning rate"""
        betas: tuple[float, float] = (0.9, 0.99)
        """AdamW's decay of gradient and squared gradient"""
        weight_decay: float = 0.01
        """AdamW's decoupled weight decay"""
        warmup: int = 200
        """iterations over which the learning rate rises from zero"""
        decay: Literal["auto", "none"] = "auto"
        """fall of the learning rate: along a cosine to the last iteration, or at the end of a time limit; or none"""
        decay_share: float = 0.15
        """with a time limit: the last share of the time, over which the constant rate falls to zero"""
        clip: float = 1.0
        """largest norm of the gradient"""
        ema_width: float = 0.1
        """relative width of the power-function average of the weights (EDM2) that becomes the model; 0 for the last"""
        ema_others: tuple[float, ...] = (0.05, 0.2)
        """further widths that are tracked, from which `zsem ema` makes averages of any width"""
        ema_snapshots: int = 6
        """snapshots of the averages that are kept for that, at most; 0 for none"""
        precision: Literal["auto", "bf16", "fp32"] = "auto"
        """arithmetic of the networks in training; auto is bf16 where the hardware computes it"""
        flip: bool = True
        """mirror half of the images, at random"""
        seed: int = 0
        """names all random draws"""
        log_every: int = 20
        """iterations per line of metrics.jsonl"""
        checkpoint_minutes: float = 3.0
        """time between checkpoints"""
        picture_minutes: float = 5.0
        """time between pictures of samples"""
        validation_minutes: float = 5.0
        """time between validations on held-out images; there is one at the end as well"""
        validation_images: int = 32
        """held-out images of a validation, at most"""

    def __init__(
        self,
        model: Model,
        objective: Objective,
        config: Config,
        folder: Path,
        *,
        measure: Callable[[Model, bool], None],
        picture: Callable[[Model, Path], None],
        say: Callable[[str], None],
        validate: Callable[[Model], dict[str, Any]] | None = None,
    ) -> None:
        """measure: fills in the averaged model's statistics before it is saved; True asks for all images.
        picture: draws what the averaged model makes into a PNG file.
        say: told a line of progress now and then.
        validate: figures of the averaged model on held-out images, "loss" among them, JSON-able.

        Raises ZsemError where the config makes no sense, or a checkpoint in `folder` cannot be read.
        """
        self.config, self.folder = check(config), folder
        self.measure, self.picture, self.validate, self.say_line = measure, picture, validate, say
        self.log, self.stop = Log(folder / "metrics.jsonl"), StopRequest()
        self.callbacks: Sequence[Callback] = ()
        keep_freed_memory()
        self.accelerator = Accelerator()
        device = self.accelerator.device
        self.half = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast(device))
        self.main = self.accelerator.is_main_process
        self.model, self.objective = model.to(device).train(), objective
        self.adaptive = objective if isinstance(objective, Adaptive) else None
        self.average = copy.deepcopy(self.model).eval()
        others = {width: copy.deepcopy(self.average) for width in config.ema_others if width != config.ema_width}
        self.averages = {config.ema_width: self.average, **others}
        networks = objective.networks
        self.optimisers = {
            name: make_optimiser(network, config.optimiser, config.learning_rate, config.betas, config.weight_decay)
            for name, network in networks.items()
        }
        self.progress = self.restore()
        if config.checkpoint_stages:
            for network in networks.values():
                recompute_stages(network)
        self.networks = {name: self.accelerator.prepare_model(network) for name, network in networks.items()}
        number = how_many(networks, config.replicas, device, config.batch_size, self.accelerator.num_processes == 1)
        self.replicas = Replicas(self.networks, number)
        self.last: dict[str, float] = dict.fromkeys(
            ("checkpoint", "picture", "validation", "word"), self.progress.seconds
        )
        self.validated = 0  # the iteration of the last validation

    def run(
        self,
        batches: Batches,
        *,
        iterations: int | None = None,
        minutes: float | None = None,
        snapshots: tuple[float, ...] = (),
        callbacks: Sequence[Callback] = (),
    ) -> Model:
        """Train until `iterations` or `minutes` are reached, counted over all resumes; returns the averaged model.

        snapshots: minutes after which a copy of the averaged model is put into snapshots/.
        callbacks: told every record of metrics.jsonl.
        With `iterations` the learning rate falls to zero along a cosine, and a resumed run equals an undisturbed one to
        the bit (on CPUs; some CUDA kernels are not deterministic); with `minutes` it is constant and falls in the last
        `decay_share` of the time. Raises ZsemError where the end of the training cannot be written, or a loss or
        gradient is not finite.
        """
        goal = time_goal(iterations, minutes)
        p, config, timed, self.callbacks = self.progress, self.config, minutes is not None, callbacks
        if self.main:
            self.log.trim(p.iteration)
            posthoc.trim(self.folder, p.iteration)
        pending = sorted(m for m in snapshots if m * 60 > p.seconds)
        now = time.perf_counter()
        with self.stop.listening():
            while (p.seconds if timed else p.iteration) < goal and not self.stop.made:
                share = (p.seconds if timed else p.iteration) / goal
                decay_share = 0.0 if config.decay == "none" else config.decay_share if timed else None
                factor = rate_factor(p.iteration, share, warmup=config.warmup, decay_share=decay_share)
                rate = config.learning_rate * factor
                p.losses.append(self.step(batches, rate))
                before, now = now, time.perf_counter()
                p.seconds = self.stop.agree(self.accelerator, p.seconds + now - before)
                if self.main:
                    self.keep_records(rate, pending, batches)
                    if self.due("word", SAY_SECONDS):
                        self.say(self.log.status(p.iteration, p.seconds / share - p.seconds if share else math.inf))
            self.finish(batches)
        return self.average

    def step(self, batches: Batches, rate: float) -> float:
        """One iteration at learning rate `rate`; returns the loss (the sum of its phases).

        Raises ZsemError, on all processes, where a loss or gradient is not finite; the weights are then as before.
        """
        p, config, accelerator = self.progress, self.config, self.accelerator
        # dropout is the one draw that torch makes itself: name it too
        name = (config.seed, p.iteration, accelerator.process_index, DROPOUT_DRAW)
        torch.manual_seed(int(generator(*name).integers(2**63)))
        number = self.replicas.number
        parts = batches.batch(p.iteration).parts(config.accumulate * number)
        images = sum(len(part.names) for part in parts)
        passes = [
            (self.under_autocast(self.objective.phases(part, self.replicas.sets[i % number])), len(part.names) / images)
            for i, part in enumerate(parts)
        ]
        total = 0.0
        while (phase := self.backward(passes)) is not None:
            optimiser, network = self.optimisers[phase.optimiser], self.networks[phase.optimiser]
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss, norm = (
                torch.as_tensor(value).item()
                for value in (
                    accelerator.reduce(phase.loss, "mean"),
                    accelerator.clip_grad_norm_(network.parameters(), config.clip),
                )
            )
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise not_finite(self.folder, p.iteration + 1, loss, norm, batches.paths(p.iteration), write=self.main)
            optimiser.step()
            for every in self.optimisers.values():  # a phase may leave gradients in networks that it does not train
                every.zero_grad(set_to_none=True)
            total += loss
        if self.adaptive is not None:
            self.adaptive.iterated(lambda tensor: torch.as_tensor(accelerator.gather(tensor)))
        p.iteration += 1
        ema.update(self.average, self.model, ema.decay(p.iteration, config.ema_width))
        if since := ema.steps_since_update(p.iteration):
            for width in self.averages.keys() - {config.ema_width}:
                ema.update(self.averages[width], self.model, ema.decay(p.iteration, width, since))
        p.images += config.batch_size
        return total

    def backward(self, passes: list[tuple[Iterator[Phase], float]]) -> Phase | None:
        """Add up the gradients of the next phase over the parts of a batch, each with its share of the images.

        As many parts at a time as there are replicas. Returns the phase with the mean loss, or None after the last.
        """
        found: list[Phase | None] = []
        for start in range(0, len(passes), self.replicas.number):
            group = passes[start : start + self.replicas.number]
            with ExitStack() as stack:
                if start + len(group) < len(passes):  # processes exchange gradients once, with the last part
                    for network in self.networks.values():
                        stack.enter_context(self.accelerator.no_sync(network))
                found += self.replicas.run([functools.partial(self.one_pass, *one) for one in group])
        self.replicas.gather()
        given = [phase for phase in found if phase is not None]
        if not given:
            return None
        return Phase(loss=torch.stack([phase.loss for phase in given]).sum(), optimiser=given[0].optimiser)

    def one_pass(self, phases: Iterator[Phase], share: float) -> Phase | None:
        """The next phase of one part, its gradient taken; its loss is the part's share of the batch's."""
        phase = next(phases, None)
        if phase is None:
            return None
        self.accelerator.backward(phase.loss if share == 1 else phase.loss * share)
        return Phase(loss=phase.loss.detach().float() * share, optimiser=phase.optimiser)

    def under_autocast(self, phases: Iterator[Phase]) -> Iterator[Phase]:
        """The same phases, their forward passes in bf16 where that is fast; what happens between them is not."""
        while True:
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.half):
                phase = next(phases, None)
            if phase is None:
                return
            yield phase

    def next_loss(self, batches: Batches) -> Tensor:
        """The loss that the next iteration begins with: weights that give none are not worth keeping."""
        part = batches.batch(self.progress.iteration).parts(self.config.accumulate)[0]
        with torch.no_grad():
            return next(self.under_autocast(self.objective.phases(part, self.objective.networks))).loss

    def keep_records(self, rate: float, pending: list[float], batches: Batches) -> None:
        """Write whatever is due after an iteration. `pending`: minutes of snapshots still to come."""
        p, config = self.progress, self.config
        if p.iteration % config.log_every == 0:
            self.record({"loss": sum(p.losses) / len(p.losses), "learning_rate": rate})
            p.losses.clear()
        if posthoc.due(p.iteration, config.ema_snapshots):
            self.attempt(lambda: posthoc.write(self.folder, p.iteration, self.averages, config.ema_snapshots))
        if self.due("validation", 60 * config.validation_minutes):
            self.attempt(self.run_validation)
        if pending and p.seconds >= 60 * pending[0]:
            folder = self.folder / "snapshots" / f"{pending.pop(0):g}min"
            self.attempt(lambda: self.export(folder, everything=True))
        if self.due("checkpoint", 60 * config.checkpoint_minutes) and bool(self.next_loss(batches).isfinite()):
            self.attempt(lambda: self.save(everything=False))
        if self.due("picture", 60 * config.picture_minutes):
            self.attempt(self.draw)

    def due(self, what: str, seconds: float | int) -> bool:
        """Whether so much time has passed since this was true last."""
        if self.progress.seconds - self.last[what] < seconds:
            return False
        self.last[what] = self.progress.seconds
        return True

    def finish(self, batches: Batches) -> None:
        """Validate, save and draw at the end; only save where somebody asked to stop."""
        loss = torch.as_tensor(self.accelerator.reduce(self.next_loss(batches), "mean")).item()
        if not math.isfinite(loss):
            iteration = self.progress.iteration
            raise not_finite(self.folder, iteration + 1, loss, math.nan, batches.paths(iteration), write=self.main)
        if self.main:
            if not self.stop.made and self.validated != self.progress.iteration:
                self.attempt(self.run_validation)
            self.save(everything=not self.stop.made)
            if self.stop.made:
                self.say(f"stopped at iteration {self.progress.iteration}; add --resume to go on")
            else:
                self.attempt(self.draw)
        self.note_history()
        self.accelerator.wait_for_everyone()

    def record(self, figures: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl and tell the callbacks."""
        p = self.progress
        line = {"iteration": p.iteration, "images": p.images, "seconds": round(p.seconds, 3), **figures}
        if "loss" in line:
            self.log.recent.append(line)
        self.attempt(lambda: self.log.write(line))
        for callback in self.callbacks:
            self.attempt(lambda callback=callback: callback(line, self.average))

    def run_validation(self) -> None:
        """Judge the averaged model on held-out images; its history remembers the figures."""
        if self.validate is None:
            return
        figures = self.validate(self.average)
        self.average.history["validation"] = figures
        self.validated = self.progress.iteration
        self.record({"validation": figures})
        self.say(f"iteration {self.progress.iteration}  validation loss {figures['loss']:.4f}")

    def attempt(self, write: Callable[[], None]) -> None:
        """Write something. A full disk is told, and training goes on: there may be room later."""
        try:
            write()
        except (ZsemError, OSError) as error:
            self.say(f"warning: {error}; training goes on")

    def save(self, *, everything: bool) -> None:
        """Write a checkpoint and the model, ready to load."""
        checkpoint.write(self.folder / "checkpoints", self.progress, self.kept, self.optimisers, self.adaptive)
        self.export(self.folder, everything=everything)

    def export(self, folder: Path, *, everything: bool) -> None:
        """Save the averaged model with its statistics, over all training images or some."""
        self.note_history()
        self.measure(self.average, everything)
        self.average.save(folder)

    def note_history(self) -> None:
        """Tell the averaged model how far it has come."""
        p = self.progress
        self.average.history |= {"iterations": p.iteration, "images": p.images, "minutes": round(p.seconds / 60, 2)}

    def draw(self) -> None:
        self.picture(self.average, self.folder / "pictures" / f"{self.progress.iteration:08d}.png")

    def say(self, line: str) -> None:
        if self.main:
            self.say_line(line)

    @property
    def kept(self) -> dict[str, Model]:
        """The networks of a checkpoint, by the names of their files."""
        averages = {f"{checkpoint.AVERAGE}{width}": average for width, average in self.averages.items()}
        return {checkpoint.WEIGHTS: self.model, **averages}

    def restore(self) -> checkpoint.Progress:
        """Go on from the newest checkpoint that is whole, if there is any."""
        folder = self.folder / "checkpoints"
        if self.main:
            checkpoint.sweep(self.folder)
        failures = []
        for path in reversed(checkpoint.complete(folder)):
            try:
                return checkpoint.read(path, self.kept, self.optimisers, self.adaptive)
            except ZsemError as error:
                failures.append(error)
                self.say(f"warning: {error}; trying the checkpoint before")
        if failures:
            raise ZsemError(f"no checkpoint in {folder} can be read; begin a new training with --init {self.folder}")
        return checkpoint.Progress(losses=[])


def check(config: Loop.Config) -> Loop.Config:
    """The same config; raises ZsemError for values that no training can have."""
    widths = (config.ema_width, *config.ema_others) if config.ema_width else config.ema_others
    for width in widths:
        if not 0 < width < ema.WIDEST:
            raise ZsemError(f"the averages' relative width must lie between 0 and {ema.WIDEST}, not {width:g}")
    lowest = {"batch_size": 1, "accumulate": 1, "log_every": 1, "ema_snapshots": 0, "validation_images": 2, "seed": 0}
    for name, least in {**lowest, "warmup": 0, "weight_decay": 0}.items():
        if not getattr(config, name) >= least:
            raise ZsemError(f"training.{name} must be at least {least}, not {getattr(config, name)}")
    if not (config.learning_rate > 0 and config.clip > 0 and all(0 <= beta < 1 for beta in config.betas)):
        raise ZsemError("training.learning_rate and clip must be above 0, betas from 0 to below 1: check their values")
    return config
