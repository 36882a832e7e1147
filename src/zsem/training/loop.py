"""The one training loop, for every Objective."""

from __future__ import annotations

import copy
import json
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from zsem.values.objective import Objective

SAY_SECONDS = 5  # between lines of progress


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
        self.measure, self.picture, self.say = measure, picture, say
        keep_freed_memory()
        half = config.precision == "bf16" or (config.precision == "auto" and bf16_is_fast(default_device()))
        self.accelerator = Accelerator(mixed_precision="bf16" if half else "no")
        self.model, self.objective = model.to(self.accelerator.device).train(), objective
        self.average = copy.deepcopy(self.model).eval()
        networks = objective.networks
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(
                network.parameters(), lr=config.learning_rate, betas=config.betas,
                weight_decay=config.weight_decay, fused=True,
            )
            for name, network in networks.items()
        }  # fmt: skip
        self.progress = checkpoint.Progress(losses=[])
        newest = checkpoint.complete(folder / "checkpoints")
        if newest:
            self.progress = checkpoint.read(newest[-1], self.model, self.average, self.optimisers)
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
        With `iterations` the learning rate falls to zero along a cosine and a resumed run equals an undisturbed one to
        the bit; with `minutes` it is constant and falls in the last `decay_share` of the time.
        """
        if (iterations is None) == (minutes is None):
            raise ZsemError("say how long to train: either a number of iterations or of minutes")
        p, config = self.progress, self.config
        timed = minutes is not None
        goal = 60 * minutes if minutes is not None else float(iterations or 0)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trim_log()
        pending = sorted(m for m in snapshots if m * 60 > p.seconds)
        saved = drawn = said = p.seconds
        clock_now = time.perf_counter()
        with self.signals():
            while (p.seconds if timed else p.iteration) < goal and not self.stop_requested:
                share = (p.seconds if timed else p.iteration) / goal
                rate = config.learning_rate * self.rate_factor(share, cosine=not timed)
                p.losses.append(self.step(batches, rate))
                p.iteration += 1
                p.images += config.batch_size
                clock_before, clock_now = clock_now, time.perf_counter()
                p.seconds += clock_now - clock_before
                if p.iteration % config.log_every == 0:
                    self.log(rate)
                if pending and p.seconds >= 60 * pending[0]:
                    self.export(self.folder / "snapshots" / f"{pending.pop(0):g}min", everything=True)
                if p.seconds - saved >= 60 * config.checkpoint_minutes:
                    saved = p.seconds
                    self.save(last=False)
                if p.seconds - drawn >= 60 * config.picture_minutes:
                    drawn = p.seconds
                    self.draw()
                if p.seconds - said >= SAY_SECONDS:
                    said = p.seconds
                    self.say(self.status(p.seconds / share - p.seconds if share else math.inf))
        self.save(last=not self.stop_requested)
        if self.stop_requested:
            self.say(f"stopped at iteration {p.iteration}; add --resume to go on")
        else:
            self.draw()
        return self.average

    def step(self, batches: Batches, rate: float) -> float:
        """One iteration at learning rate `rate`; returns the loss (the sum of its phases)."""
        p, config, accelerator = self.progress, self.config, self.accelerator
        batch = batches.batch(p.iteration)
        # dropout is the one draw that torch makes itself: name it too
        torch.manual_seed(int(generator(config.seed, p.iteration, accelerator.process_index).integers(2**63)))
        total = 0.0
        for phase in self.objective.phases(batch, self.networks):
            optimiser, network = self.optimisers[phase.optimiser], self.networks[phase.optimiser]
            for group in optimiser.param_groups:
                group["lr"] = rate
            accelerator.backward(phase.loss)
            accelerator.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            loss = accelerator.reduce(phase.loss.detach(), "mean")
            assert isinstance(loss, torch.Tensor)
            total += loss.item()
        ema.update(self.average, self.model, ema.decay(p.iteration + 1, config.ema_width))
        return total

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
        if self.accelerator.is_main_process:
            line = {
                "iteration": p.iteration, "images": p.images, "seconds": round(p.seconds, 3),
                "loss": self.recent[-1][2], "learning_rate": rate,
            }  # fmt: skip
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def trim_log(self) -> None:
        """Drop what the log says of iterations after the checkpoint that training goes on from."""
        path = self.folder / "metrics.jsonl"
        if path.exists() and self.accelerator.is_main_process:
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["iteration"] <= self.progress.iteration]
            write_whole(path, "".join(line + "\n" for line in kept).encode())

    def status(self, left: float) -> str:
        """One line: iteration, loss, images/s over the last lines of the log, time left."""
        if len(self.recent) < 2:
            return f"iteration {self.progress.iteration}"
        (begin, images_before, _), (end, images_after, loss) = self.recent[0], self.recent[-1]
        speed = (images_after - images_before) / (end - begin)
        return f"iteration {self.progress.iteration}  loss {loss:.4f}  {speed:.0f} images/s  {clock(left)} left"

    def save(self, *, last: bool) -> None:
        """Checkpoint and loadable model. A full disk is told and training goes on, unless this was the last chance."""
        if not self.accelerator.is_main_process:
            return
        try:
            checkpoint.write(self.folder / "checkpoints", self.progress, self.model, self.average, self.optimisers)
            self.export(self.folder, everything=last)
        except ZsemError as error:
            if last or self.stop_requested:
                raise
            self.say(f"warning: {error}; training goes on")

    def export(self, folder: Path, *, everything: bool) -> None:
        """Save the averaged model with its statistics, over all training images or some."""
        self.average.history |= {
            "iterations": self.progress.iteration,
            "images": self.progress.images,
            "minutes": round(self.progress.seconds / 60, 2),
        }
        self.measure(self.average, everything)
        self.average.save(folder)

    def draw(self) -> None:
        if self.accelerator.is_main_process:
            self.picture(self.average, self.folder / "pictures" / f"{self.progress.iteration:08d}.png")

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


def default_device() -> torch.device:
    """The device that training will run on."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    if math.isinf(seconds):
        return "?"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
