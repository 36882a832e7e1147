"""What the attributes of a data set mean in a model's codes: learned from labels once, kept beside the model."""

from __future__ import annotations

import difflib
import json
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.semantics import directions
from zsem.semantics.choice import Choice, choose, exclusive_pairs, label_scale
from zsem.semantics.probes import Codes, Labels, Probe, to_float64
from zsem.values.direction import Direction, load_directions
from zsem.values.errors import ZsemError
from zsem.values.files import read_format, write_whole
from zsem.values.logistic import Logistic

Method = Literal["constrained", "logistic", "mean"]

FORMAT, FORMAT_VERSION = "zsem.semantics", 1
FILE = "attributes.safetensors"
IMPORTED = "directions.safetensors"
"""Classifiers of an imported checkpoint; `Semantics` reads this file and never writes it."""
LEAST, MOST = 0.001, 0.999
"""Probabilities that are asked for lie between these: 0 and 1 are infinitely far."""
TYPICAL, BEYOND = 0.9, 0.5
"""A request of .9 takes a code to where images that have the attribute are on average, and half as far beyond it as the
two kinds lie apart; smaller requests in proportion to their logits, surer ones no further than the probe needs. Chosen
with experiments/edit_defaults.py: where the kinds are far apart, a probe is sure long before the picture is."""
UNKNOWN = Choice(g=1.0, lam=0.0)
"""The logistic direction, for classifiers without labelled images."""
AGAIN = "learn it again with `zsem attributes`"


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """One attribute.

    probe: its classifier's gradient; an amount of 1 is one logit, or one unit of a real value.
    binary: whether it is 0/1.
    centres: mean codes without and with it, normalised, [2, d] (see `class_centres`); None for imported classifiers.
    scale: what a change of its score is compared in: 1 logit, or a standard deviation of real labels.
    exclusive: attributes that never go with it, e.g. the other classes; they are not held still when it changes.
    choice: the direction of the method "constrained".
    figures: how well it is read off held-out images, JSON-able.
    """

    probe: Direction
    binary: bool
    centres: Float[Tensor, "2 d"] | None = None
    scale: float = 1.0
    exclusive: tuple[str, ...] = ()
    choice: Choice = UNKNOWN
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Semantics:
    """Attributes in the semantic codes of one model: `direction`, `move`, `score`.

    model: the model's stamp.
    mean, std: with which z is normalised, [d].
    covariance: of normalised z, shrunk, [d, d].
    attributes: by name.
    about: where it was learned, JSON-able.
    """

    model: str
    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]
    attributes: Mapping[str, Attribute]
    about: Mapping[str, Any] = field(default_factory=dict)

    def normalised(self, z: Float[Tensor, "n d"]) -> Float[np.ndarray, "n d"]:
        """z as probes see it: mean 0 and standard deviation 1 over the training images."""
        return (to_float64(z) - to_float64(self.mean)) / to_float64(self.std)

    def score(self, z: Float[Tensor, "n d"], name: str) -> Float[np.ndarray, " n"]:
        """Probability of a 0/1 attribute, or the value of a real one, for codes z."""
        logits = self._logits(self.normalised(z), [name])[:, 0]
        return 0.5 * (1 + np.tanh(logits / 2)) if self[name].binary else logits

    def __getitem__(self, name: str) -> Attribute:
        if name not in self.attributes:
            close = difflib.get_close_matches(name, self.attributes, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(self.attributes) or 'none'}"
            raise ZsemError(f"no attribute {name!r} was learned for this model: {hint}")
        return self.attributes[name]

    def direction(self, name: str, method: Method = "constrained", keep: Collection[str] = ()) -> Direction:
        """The direction of an attribute in normalised z; an amount of 1 changes its score by 1 (logit, or unit).

        method: see `zsem.semantics.directions`; "constrained" is the member of the family that suits the attribute
            best, see `zsem.semantics.choice`.
        keep: attributes whose score does not change.
        Raises ZsemError for unknown attributes, or where it cannot be changed without those that are kept.
        """
        if method == "logistic" and not keep:
            return directions.logistic(self[name].probe)
        step = torch.from_numpy(self._steps([name], keep, method)[:, 0]).float()
        return replace(directions.logistic(self[name].probe), vector=step, slope=None, intercept=None)

    def move(
        self,
        z: Float[Tensor, "n d"],
        targets: Mapping[str, float | int],
        *,
        keep: Collection[str] = (),
        method: Method = "constrained",
        exact: bool = False,
        beyond: float | int = BEYOND,
        clamp: bool = False,
        quiet: bool = False,
    ) -> Float[Tensor, "n d"]:
        """Codes z moved to where every attribute of `targets` has the probability or real value that is asked for.

        A probability is reached at least: above a half it asks for the attribute and below for its absence, and a code
        whose own is already beyond it on that side keeps what it has. The others are taken to where images of that kind
        lie (see TYPICAL) if that is further, and from where the probe's doubt lets them be: it reads one
        image's code with an error, so what looks half-way may be none of it. A half, and real values, are reached
        exactly.

        targets: probabilities 0..1 (taken as .001 .. .999), or real values, by name; all are reached together.
        keep: attributes whose score does not change.
        exact: take all codes to just the probability, those that are beyond it back, e.g. for a fainter smile.
        beyond: by which share of the distance of the two kinds a request of .9 ends beyond the average of its kind.
        clamp: shorten steps of more than three sigma (Mahalanobis) to that, with which targets are not reached.
        quiet: say nothing of such steps, which are warned of otherwise; e.g. where figures tell what came of them.
        Raises ZsemError for unknown attributes, probabilities outside 0..1, and where the targets cannot be reached
        without each other or what is kept.
        """
        if not targets:
            return z
        goals = [self._goal(name, value) for name, value in targets.items()]
        scores = self._logits(self.normalised(z), list(targets))
        amounts = np.array(goals) - scores
        if not exact:
            for column, (name, goal) in enumerate(zip(targets, goals, strict=True)):
                if self[name].binary and goal:
                    amounts[:, column] = self._flip(name, goal, scores[:, column], beyond)
        steps = amounts @ self._steps(list(targets), keep, method).T
        sigma = directions.lengths(steps, to_float64(self.covariance))
        far = sigma > directions.GUARD
        if clamp:
            steps[far] *= (directions.GUARD / sigma[far])[:, None]
        if far.any() and not quiet:
            what = "was shortened to three" if clamp else "the decoder may not follow: ask for less, or clamp"
            warnings.warn(
                f"the edit takes {far.sum()} of {len(z)} codes further than {directions.GUARD:g} sigma "
                f"(up to {sigma.max():.1f}); {what}",
                stacklevel=2,
            )
        return z + (torch.from_numpy(steps) * self.std.double().cpu()).to(z)

    def log_p(self, wanted: Mapping[str, float | int | bool]) -> Logistic:
        """log p(all of it | z) of 0/1 attributes that must be there (1) or absent (0), as a prior takes it.

        Raises ZsemError for unknown attributes, real values, and where something else than 0 or 1 is asked for.
        """
        if not wanted:
            raise ZsemError("no attribute is asked for: name one or more, e.g. smile=1")
        signs = []
        for name, value in wanted.items():
            if not self[name].binary:
                raise ZsemError(f"{name} is a real value, which has no probability: ask for attributes of 0 and 1")
            if value not in {0, 1}:
                raise ZsemError(f"{name} is asked for with {value:g}: give 1 where it must be there, 0 where not")
            signs.append(2.0 * value - 1)
        weights = self._weights(list(wanted)) / to_float64(self.std)
        offsets = self._logits(self.normalised(torch.zeros(1, len(self.mean))), list(wanted))[0]
        sign = np.array(signs)
        return Logistic(
            weights=torch.from_numpy(sign[:, None] * weights).float(), offsets=torch.from_numpy(sign * offsets).float()
        )

    def leakage(self, name: str, method: Method = "constrained") -> float | None:
        """Mean change of other attributes expected for a change of this one's score by 1 along its direction.

        Of all that do not exclude it, in logits, or standard deviations for real values, as `zsem.semantics.choice`
        read it off codes that the direction was not made from. None where there is no other, or too few labels.
        """
        choice = self[name].choice
        return choice.leakage if method == "constrained" else choice.baselines.get(method)

    def sigma(self, direction: Direction) -> float:
        """Mahalanobis length of an amount of 1."""
        return float(directions.lengths(to_float64(direction.vector)[None], to_float64(self.covariance))[0])

    def save(self, folder: str | Path) -> Path:
        """Write what was learned (not what was imported) to one file in `folder`, whole or not at all; its path.

        Raises ZsemError where nothing was learned.
        """
        import safetensors.torch

        folder = Path(folder)
        learned = {name: a for name, a in self.attributes.items() if a.centres is not None}
        if not learned:
            raise ZsemError("no attribute was learned, so there is nothing to save: imported classifiers have a file")
        folder.mkdir(parents=True, exist_ok=True)
        entries = [_entry(name, attribute) for name, attribute in learned.items()]
        tensors = {
            "mean": self.mean, "std": self.std, "covariance": self.covariance,
            "vectors": torch.stack([a.probe.vector for a in learned.values()]),
            "centres": torch.stack([a.centres for a in learned.values() if a.centres is not None]),
        }  # fmt: skip
        metadata = {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "semantics": json.dumps({"model": self.model, "about": self.about, "attributes": entries}),
        }
        tensors = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
        write_whole(folder / FILE, safetensors.torch.save(tensors, metadata))
        return folder / FILE

    @classmethod
    def load(cls, folder: str | Path, model: DiffusionAutoencoder) -> Semantics:
        """What `save` wrote for this model, and the classifiers that were imported with it under other names.

        Raises ZsemError where there is neither, a file is damaged, or belongs to another model.
        """
        folder = Path(folder)
        found = read_semantics(folder / FILE) if (folder / FILE).exists() else None
        if found is not None:
            _check_stamp(folder / FILE, found.model, model.stamp)
        classifiers = load_directions(folder / IMPORTED) if (folder / IMPORTED).exists() else []
        imported = {
            d.name: Attribute(probe=directions.logistic(d), binary=True)
            for d in classifiers
            if d.slope is not None and d.intercept is not None and (found is None or d.name not in found.attributes)
        }
        for direction in classifiers:
            _check_stamp(folder / IMPORTED, direction.model, model.stamp)
        if found is not None:
            return replace(found, attributes={**found.attributes, **imported})
        if not imported:
            raise ZsemError(f"{folder} holds no attributes: learn them with `zsem attributes RUN DATA`")
        # normalised codes have variances of 1; what goes with what is not known
        return cls(
            model=model.stamp, mean=model.z_mean.cpu(), std=model.z_std.cpu(),
            covariance=torch.eye(len(model.z_mean)), attributes=imported,
        )  # fmt: skip

    def _goal(self, name: str, value: float | int) -> float:
        if not self[name].binary:
            return float(value)
        if not 0 <= value <= 1:
            raise ZsemError(f"{name} is asked for with {value:g}, which is no probability: give 0 to 1")
        p = min(max(value, LEAST), MOST)
        return math.log(p / (1 - p))

    def _flip(self, name: str, goal: float, scores: Float[np.ndarray, " n"], share: float) -> Float[np.ndarray, " n"]:
        """By how many logits scores change of which at least `goal`, not 0, is asked; share: see `move`, beyond."""
        sign = np.sign(goal)
        goal, own = abs(goal), sign * scores  # upwards from here on
        beyond = own > goal
        if (centres := self[name].centres) is not None:
            other, kind = np.sort(sign * self._logits(to_float64(centres), [name])[:, 0])
            part = min(1.0, goal / self._goal(name, TYPICAL))
            goal = max(goal, part * (kind + share * (kind - other)))
            doubt = 0.5 * (1 - np.tanh(own / 2))
            own = own + part * doubt * np.minimum(other - own, 0)
        return sign * np.where(beyond, 0.0, goal - own)

    def _logits(self, codes: Float[np.ndarray, "n d"], names: Sequence[str]) -> Float[np.ndarray, "n t"]:
        offsets = [self[name].probe.intercept or 0.0 for name in names]
        return codes @ self._weights(names).T + np.array(offsets)

    def _weights(self, names: Collection[str], *, scaled: bool = False) -> Float[np.ndarray, "t d"]:
        """Gradients of attributes, [t, d]; comparable with each other where `scaled`."""
        rows = [to_float64(self[n].probe.gradient) / (self[n].scale if scaled else 1) for n in names]
        return np.array(rows).reshape(len(rows), len(self.mean))

    def _steps(self, names: Sequence[str], keep: Collection[str], method: Method) -> Float[np.ndarray, "d t"]:
        """Steps that each change one attribute's score by 1, the others' of `names` and `keep` not at all."""
        keep = dict.fromkeys(keep)  # one that is named twice would be two equal constraints
        for name in keep:
            if name in names:
                raise ZsemError(f"{name} cannot be changed and kept at once: leave it out of one of the two")
        targets, kept = self._weights(names), self._weights(keep)
        if method == "constrained":
            metric = np.mean([self._cost(name, names) for name in names], axis=0)
            columns = np.linalg.solve(metric, np.concatenate([targets, kept]).T)
        elif method == "logistic":
            columns = np.concatenate([targets, kept]).T
        else:
            columns = np.concatenate([np.stack([self._towards(name) for name in names]), kept]).T
        return directions.joint_steps(columns, targets, kept, names)

    def _cost(self, name: str, moved: Sequence[str]) -> directions.Square:
        """The cost of steps for a target, with whatever else moves free to do so."""
        own = self[name]
        others = [n for n, a in self.attributes.items() if a.centres is not None and n not in {*moved, *own.exclusive}]
        weights = self._weights(others, scaled=True)
        return directions.cost(to_float64(self.covariance), weights, g=own.choice.g, lam=own.choice.lam)

    def _towards(self, name: str) -> directions.Vector:
        centres = self[name].centres
        if centres is None:
            raise ZsemError(f"{name} was imported without images, so it has no mean codes: use another method")
        return to_float64(directions.mean_difference(self[name].probe, to_float64(centres)).vector)


def learn(
    z: Codes,
    labels: Mapping[str, Labels],
    model: DiffusionAutoencoder,
    *,
    probes: Mapping[str, Probe] | None = None,
    classes: Collection[str] = (),
    groups: Sequence[str] | None = None,
    about: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Semantics:
    """Learn attributes from labelled training images; NaN = no label.

    z: codes as `model` gives them, [n, d]. labels: 0/1 or real, [n] each.
    probes: fitted to these normalised codes already, by attribute; calibrated here.
    classes: the attributes of which every image has at most one.
    groups: what belongs together (patient, slide, video), "" = nothing.
    Raises ZsemError, which names the attribute, where one cannot be learned.
    """
    mean, std = model.z_mean.detach().cpu(), model.z_std.detach().cpu()
    codes = (to_float64(z) - to_float64(mean)) / to_float64(std)
    values = {name: to_float64(given) for name, given in labels.items()}
    fitted, centres = {}, {}
    for name, given in values.items():
        try:
            probe = Probe(seed=seed).fit(codes, given, groups) if probes is None else probes[name]
            fitted[name] = probe.calibrated(codes, given, groups)
            centres[name] = torch.from_numpy(directions.class_centres(codes, given)).float()
        except ZsemError as error:
            raise ZsemError(f"attribute {name}: {error}") from None
    exclusive = exclusive_pairs(values, classes)
    choices = choose(codes, values, fitted, exclusive, groups, seed=seed)
    return Semantics(
        model=model.stamp, mean=mean, std=std,
        covariance=torch.from_numpy(directions.shrunk_covariance(codes)).float(),
        attributes={
            name: Attribute(
                probe=fitted[name].direction(name, model=model.stamp), binary=fitted[name].binary_,
                centres=centres[name], scale=label_scale(given), exclusive=exclusive[name], choice=choices[name],
            )
            for name, given in values.items()
        },
        about=dict(about or {}),
    )  # fmt: skip


def _entry(name: str, attribute: Attribute) -> dict[str, Any]:
    """What is not a tensor of an attribute."""
    probe = attribute.probe
    return {
        "name": name, "unit": probe.unit, "slope": probe.slope, "intercept": probe.intercept,
        "binary": attribute.binary, "scale": attribute.scale, "exclusive": attribute.exclusive,
        "choice": asdict(attribute.choice), "figures": dict(attribute.figures),
    }  # fmt: skip


def read_semantics(path: Path) -> Semantics:
    """What `Semantics.save` wrote, whatever its model. Raises ZsemError where the file is damaged or foreign."""
    tensors, metadata = read_format(path, FORMAT, FORMAT_VERSION, holds="attributes", mend=AGAIN)
    known = json.loads(metadata["semantics"])
    stamp, attributes = known["model"], {}
    for entry, vector, centres in zip(known["attributes"], tensors["vectors"], tensors["centres"], strict=True):
        name = entry["name"]
        probe = Direction(
            space="z", vector=vector, unit=entry["unit"], name=name, model=stamp,
            slope=entry["slope"], intercept=entry["intercept"],
        )  # fmt: skip
        attributes[name] = Attribute(
            probe=probe, binary=entry["binary"], centres=centres, scale=entry["scale"],
            exclusive=tuple(entry["exclusive"]), choice=Choice(**entry["choice"]), figures=entry["figures"],
        )  # fmt: skip
    return Semantics(
        model=stamp, mean=tensors["mean"], std=tensors["std"], covariance=tensors["covariance"],
        attributes=attributes, about=known["about"],
    )  # fmt: skip


def _check_stamp(path: Path, found: str, stamp: str) -> None:
    if found != stamp:
        raise ZsemError(f"{path} belongs to model {found}, this is {stamp}: learn it again with `zsem attributes`")
