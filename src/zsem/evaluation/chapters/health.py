"""Whether the semantic code is used, and what it fixes."""

from __future__ import annotations

from zsem.evaluation.chapters.chapter import Chapter, needs_z
from zsem.evaluation.findings import Figure, Finding, Measure, Sentence, sheet
from zsem.evaluation.study import BATCH, Study
from zsem.metrics.health import USED, errors_of_z, timesteps_of_health
from zsem.metrics.intervals import Interval, bootstrap, percentiles
from zsem.metrics.perceptual import PairFigures
from zsem.metrics.variation import variation
from zsem.semantics.probes import RESAMPLES

ERROR = Measure("error of the guess", "squared error", "mean squared error of the image that is guessed from noise",
                "lower")  # fmt: skip
RATIO = Measure("wrong z / own z", "ratio",
                "how many times larger the error is with another image's z; 1 where z is unused", "higher")  # fmt: skip
CHANGE = Measure("change of the picture", "score", "mean ST-LPIPS between two pictures that differ in nothing else")
OWN, OTHER, NONE = "with its own z", "with another image's z", "without z"


def measure(study: Study) -> Finding:
    """Errors at high noise with the right and with the wrong z; what changes with the noise alone and with z alone."""
    model, images = study.autoencoder, study.some(study.amounts.z_judged)
    trained_without = bool(model.history.get("z_dropout"))
    errors = errors_of_z(model, images, unconditional=trained_without, batch_size=BATCH).mean(dim=1)
    own, other, _ = errors.numpy()
    n = len(own)
    samples = bootstrap(lambda drawn: float(drawn @ other / (drawn @ own)), n, resamples=RESAMPLES, seed=study.seed)
    ratio = RATIO.of(OTHER, float(other.sum() / own.sum()), n, percentiles(samples))
    figures = [
        ERROR.mean(OWN, errors[0], study.seed), ERROR.mean(OTHER, errors[1], study.seed),
        ERROR.mean(NONE, errors[2], study.seed), ratio,
    ]  # fmt: skip
    steps = ", ".join(map(str, timesteps_of_health(model)))
    untold = "the code for none that it was trained with" if trained_without else "the mean code of all images"
    notes = [f"Mean over timesteps {steps}, where an image is nearly all noise; without z: {untold}."]
    said = [verdict(ratio)]
    if study.perceptual is None:
        notes.append(study.without_perceptual)
    elif n >= 2:
        codes = model.encode(images.subset(range(min(n, study.amounts.varied))), noise=False, batch_size=BATCH)
        found = variation(model, codes, study.perceptual, seed=study.seed)
        figures += [pairs("other noise, same z", found.vary), pairs("other z, same noise", found.mix)]
        said.append(fixed(found.vary, found.mix))
    few = images.subset(range(min(n, 6)))
    codes = model.encode(few, noise=False)
    rows = {"original": study.pictures(few)}
    for i in range(3):
        rows[f"noise {i + 1}"] = study.pictures(model.decode(model.vary(codes, seed=study.seed + i)))
    caption = "Originals, and three times their semantic code with other noise: what stays the same is what z says."
    return Finding(figures=figures, verdict=said, notes=notes, pictures=[sheet(rows, caption)])


def pairs(row: str, found: PairFigures) -> Figure:
    """A mean distance of pairs."""
    return CHANGE.of(row, found.distance, found.n, Interval(low=found.interval.low, high=found.interval.high))


def verdict(ratio: Figure) -> Sentence:
    """Whether z is used."""
    if (ratio.value or 0) >= USED:
        return Sentence(grade="good", text=f"The decoder listens to the semantic code: with another image's code it "
                        f"errs {ratio.value:.2f} times as much.")  # fmt: skip
    return Sentence(
        grade="poor", text=f"The decoder hardly listens to the semantic code: with another image's code it errs only "
        f"{ratio.value or 0:.2f} times as much ({USED:g} are wanted). Train longer, or weigh high noise more.",
    )  # fmt: skip


def fixed(vary: PairFigures, mix: PairFigures) -> Sentence:
    """Whether z or the noise says what an image shows."""
    ratio = vary.distance / max(mix.distance, 1e-12)
    grade = "good" if ratio < 0.5 else "fair" if ratio < 1 else "poor"
    return Sentence(
        grade=grade,
        text=f"New noise changes a picture {ratio:.2g} times as much as a new semantic code does: "
        + ("z decides what is seen." if ratio < 1 else "much of what is seen is left to the noise."),
    )


CHAPTER = Chapter(
    name="health",
    title="Is the semantic code used?",
    question="A decoder can learn to ignore its semantic code (z). Here it must guess images that are nearly all "
    "noise: once with the image's own code, once with that of another image, once without any.",
    uses=("z_judged", "varied"),
    measure=measure,
    left_out=lambda study: needs_z(study) or ("" if len(study.held_out) > 1 else "It takes two held-out images."),
)
