"""The one training loop, for every Objective."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator

from zsem.data.batches import Batches
from zsem.models.base import Model
from zsem.training import checkpoint, ema
from zsem.training.machine import bf16_is_fast, keep_freed_memory
from zsem.values.draws import generator
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole
from zsem.values.objective import Objective, Phase

SAY_SECONDS = 5  # between lines of progress
DROPOUT_DRAW = 3  # the last integer of a draw's name: what the draw is for


class Loop:
    """Trains a model on an Objective until a number of iterations or minutes is reached, or a signal asks it to stop.

    Everything it writes lies in one run folder:
    config.json and model.safetensors (averaged weights, ready to load), metrics.jsonl, checkpoints/, snapshots/,
    pictures/.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        batch_size: int = 64
        """images per iteration, over all devices"""
        learning_rate: float = 4e-4
        """peak learning rate of AdamW"""
        betas: tuple[float, float] = (0.9, 0.99)
        """AdamW's decay of gradient and squared gradient"""
        weight_decay: float = 0.01
        """AdamW's decoupled weight decay"""
        warmup: int = 200
        """iterations over which the learning rate rises from zero"""
        decay_share: float = 0.15
        """with a time limit: the last share of the time, over which the constant rate falls to zero"""
        clip: float = 1.0
        """largest norm of the gradient"""
        ema_width: float = 0.1
        """relative width of the power-function average of the weights (EDM2)"""
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
    ) -> None:
        """measure: fills in the averaged model's statistics before it is saved; True asks for all images.
        picture: draws what the averaged model makes into a PNG file.
        say: told a line of progress now and then.
        """
        self.config, self.folder = config, folder
        self.measure, self.picture, self.say_line = measure, picture, say
        keep_freed_memory()
        self.accelerator = Accelerator()
        device = self.accelerator.device
        self.half = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast(device))
        self.main = self.accelerator.is_main_process
        self.model, self.objective = model.to(device).train(), objective
        self.average = copy.deepcopy(self.model).eval()
        networks = objective.networks
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(
                network.parameters(), lr=config.learning_rate, betas=config.betas,
                weight_decay=config.weight_decay, fused=True,
            )
            for name, network in networks.items()
        }  # fmt: skip
        self.progress = self.restore()
        self.networks = {name: self.accelerator.prepare_model(network) for name, network in networks.items()}
        self.stop_requested = False
        self.recent: deque[tuple[float, int, float]] = deque(maxlen=10)  # seconds, images, loss at lines of the log

    def run(
        self,
        batches: Batches,
        *,
        iterations: int | None = None,
        minutes: float | None = None,
        snapshots: tuple[float, ...] = (),
    ) -> Model:
        """Train until `iterations` or `minutes` are reached, counted over all resumes; returns the averaged model.

        snapshots: minutes after which a copy of the averaged model is put into snapshots/.
        With `iterations` the learning rate falls to zero along a cosine, and a resumed run equals an undisturbed one to
        the bit (on CPUs; some CUDA kernels are not deterministic); with `minutes` it is constant and falls in the last
        `decay_share` of the time. Raises ZsemError where the end of the training cannot be written.
        """
        goal = time_goal(iterations, minutes)
        p, config, timed = self.progress, self.config, minutes is not None
        self.trim_log()
        pending = sorted(m for m in snapshots if m * 60 > p.seconds)
        saved = drawn = said = p.seconds
        now = time.perf_counter()
        with self.signals():
            while (p.seconds if timed else p.iteration) < goal and not self.stop_requested:
                share = (p.seconds if timed else p.iteration) / goal
                rate = config.learning_rate * self.rate_factor(share, cosine=not timed)
                p.losses.append(self.step(batches, rate))
                p.iteration += 1
                p.images += config.batch_size
                before, now = now, time.perf_counter()
                p.seconds += now - before
                self.agree()
                if p.iteration % config.log_every == 0:
                    self.log(rate)
                if pending and p.seconds >= 60 * pending[0]:
                    folder = self.folder / "snapshots" / f"{pending.pop(0):g}min"
                    self.attempt(lambda folder=folder: self.export(folder, everything=True))
                if p.seconds - saved >= 60 * config.checkpoint_minutes:
                    saved = p.seconds
                    self.attempt(lambda: self.save(everything=False))
                if p.seconds - drawn >= 60 * config.picture_minutes:
                    drawn = p.seconds
                    self.attempt(self.draw)
                if p.seconds - said >= SAY_SECONDS:
                    said = p.seconds
                    self.say(self.status(p.seconds / share - p.seconds if share else math.inf))
            self.note_history()
            if self.main:
                self.save(everything=not self.stop_requested)
                if self.stop_requested:
                    self.say(f"stopped at iteration {p.iteration}; add --resume to go on")
                else:
                    self.attempt(self.draw)
            self.accelerator.wait_for_everyone()
        return self.average

    def step(self, batches: Batches, rate: float) -> float:
        """One iteration at learning rate `rate`; returns the loss (the sum of its phases)."""
        p, config, accelerator = self.progress, self.config, self.accelerator
        batch = batches.batch(p.iteration)
        # dropout is the one draw that torch makes itself: name it too
        name = (config.seed, p.iteration, accelerator.process_index, DROPOUT_DRAW)
        torch.manual_seed(int(generator(*name).integers(2**63)))
        total = 0.0
        for phase in self.under_autocast(self.objective.phases(batch, self.networks)):
            optimiser, network = self.optimisers[phase.optimiser], self.networks[phase.optimiser]
            for group in optimiser.param_groups:
                group["lr"] = rate
            accelerator.backward(phase.loss)
            accelerator.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            for every in self.optimisers.values():  # a phase may leave gradients in networks that it does not train
                every.zero_grad(set_to_none=True)
            loss = accelerator.reduce(phase.loss.detach(), "mean")
            assert isinstance(loss, torch.Tensor)
            total += loss.item()
        ema.update(self.average, self.model, ema.decay(p.iteration + 1, config.ema_width))
        return total

    def under_autocast(self, phases: Iterator[Phase]) -> Iterator[Phase]:
        """The same phases, their forward passes in bf16 where that is fast; what happens between them is not."""
        while True:
            with torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.half):
                phase = next(phases, None)
            if phase is None:
                return
            yield phase

    def rate_factor(self, share: float, *, cosine: bool) -> float:
        """The learning rate's factor after `share` of the training, without and with the decay tail."""
        warm = min(1.0, (self.progress.iteration + 1) / max(1, self.config.warmup))
        if cosine:
            return warm * 0.5 * (1 + math.cos(math.pi * share))
        return warm * min(1.0, (1 - share) / max(self.config.decay_share, 1e-9))

    def log(self, rate: float) -> None:
        """Add a line to metrics.jsonl: the mean loss since the line before."""
        p = self.progress
        self.recent.append((p.seconds, p.images, sum(p.losses) / len(p.losses)))
        p.losses.clear()
        line = {
            "iteration": p.iteration, "images": p.images, "seconds": round(p.seconds, 3),
            "loss": self.recent[-1][2], "learning_rate": rate,
        }  # fmt: skip

        def append() -> None:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

        self.attempt(append)

    def trim_log(self) -> None:
        """Drop what the log says of iterations after the checkpoint that training goes on from, and broken lines."""
        path = self.folder / "metrics.jsonl"
        if path.exists() and self.main:
            kept = []
            for line in path.read_text().splitlines():
                with suppress(json.JSONDecodeError):
                    if json.loads(line)["iteration"] <= self.progress.iteration:
                        kept.append(line + "\n")
            write_whole(path, "".join(kept).encode())

    def status(self, left: float) -> str:
        """One line: iteration, loss, images/s over the last lines of the log, time left."""
        if len(self.recent) < 2:
            return f"iteration {self.progress.iteration}"
        (begin, images_before, _), (end, images_after, loss) = self.recent[0], self.recent[-1]
        speed = (images_after - images_before) / (end - begin)
        return f"iteration {self.progress.iteration}  loss {loss:.4f}  {speed:.0f} images/s  {clock(left)} left"

    def attempt(self, write: Callable[[], None]) -> None:
        """Write something, on the main process. A full disk is told, and training goes on: there may be room later."""
        if self.main:
            try:
                write()
            except (ZsemError, OSError) as error:
                self.say(f"warning: {error}; training goes on")

    def save(self, *, everything: bool) -> None:
        """Write a checkpoint and the model, ready to load."""
        checkpoint.write(self.folder / "checkpoints", self.progress, self.model, self.average, self.optimisers)
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

    def restore(self) -> checkpoint.Progress:
        """Go on from the newest checkpoint that is whole, if there is any."""
        folder = self.folder / "checkpoints"
        if self.main:
            checkpoint.sweep(folder)
        failures = []
        for path in reversed(checkpoint.complete(folder)):
            try:
                return checkpoint.read(path, self.model, self.average, self.optimisers)
            except ZsemError as error:
                failures.append(error)
                self.say(f"warning: {error}; trying the checkpoint before")
        if failures:
            raise ZsemError(f"no checkpoint in {folder} can be read; begin a new training with --init {self.folder}")
        return checkpoint.Progress(losses=[])

    def agree(self) -> None:
        """One clock and one will for all processes: the slowest clock, and a stop that any of them was asked for."""
        if self.accelerator.num_processes > 1:
            mine = torch.tensor([self.progress.seconds, float(self.stop_requested)], device=self.accelerator.device)
            everyone = self.accelerator.gather(mine)
            assert isinstance(everyone, torch.Tensor)
            seconds, stop = everyone.view(-1, 2).amax(dim=0).tolist()
            self.progress.seconds, self.stop_requested = seconds, stop > 0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM finish the iteration, save and leave."""

        def request_stop(*_: object) -> None:
            self.stop_requested = True

        handled = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, request_stop) for number in handled}
        except ValueError:  # not in the main thread: signals are somebody else's business
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def time_goal(iterations: int | None, minutes: float | None) -> float:
    """Iterations or seconds, whichever is given; raises ZsemError where it is not one of the two and positive."""
    if (iterations is None) == (minutes is None):
        raise ZsemError("say how long to train: either a number of iterations or of minutes")
    goal = float(iterations or 0) if minutes is None else 60 * minutes
    if goal <= 0:
        raise ZsemError(f"a training must be longer than {goal:g}: give a positive number of iterations or minutes")
    return goal


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    if math.isinf(seconds):
        return "?"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
