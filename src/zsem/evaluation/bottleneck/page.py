"""The page of the study of h-space: what a stranger needs to know, tables, and rows of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from zsem.data.pixels import displayable, grid
from zsem.evaluation.bottleneck.cells import Cell, Findings
from zsem.evaluation.bottleneck.methods import METHODS
from zsem.evaluation.bottleneck.options import QUICK
from zsem.evaluation.bottleneck.properties import CONSISTENCY, PUBLISHED, SYMMETRIC, TRAINED, Property
from zsem.evaluation.bottleneck.study import HspaceStudy
from zsem.evaluation.flipping import COLUMNS, HIGH, LOW, text
from zsem.report import Picture, Point, Section, write_page

SCALED = 64
"""Smaller pictures are enlarged to about this side, pixels."""
SHOWN_COLUMNS = ("hit", "leakage", "requested", "error", "nearer", "change")
BESIDE = {"before": "seen as asked for", "unedited": "MSE to the truth"}
"""Figures of the images as they were, which all methods share."""
MOVED = 0.05
"""Leakage is shown where the target's probability changes by so much at least: it is a share of that."""
LEFT_OUT = f"Leakage is left out where the probability of some target changes by less than {MOVED:g}."
MEANING = (
    "Change of target: mean change of the probability towards the request. Edits seen: share of the pictures that the "
    "judge takes for what was asked. Leakage: changes of all other attributes, but of classes that exclude it, over "
    "the net change of the target. |achieved - requested|: median. MSE to truth: to the same face drawn anew with the "
    "attribute flipped; nearer: the share of the pictures that came nearer to it than the original is. Small print "
    "below a figure is its 95 % interval."
)
"""What the columns mean."""
RATES = 0.8
"""Hit rate that the best method in h should reach."""
TOLERABLE = 0.5
"""Leakage of a good edit at most: all others together change half as much as the attribute."""
MINUTES = 15.0
"""That f_t of one attribute should take at most."""
ALIKE = 0.1
"""How far the change of the judge's logit may differ between numbers of steps."""


def write_study(path: str | Path, study: HspaceStudy, found: Findings, run: str) -> Path:
    """Write the page, whole or not at all; returns its path. run: what the model is called.

    Raises ZsemError where the file cannot be written.
    """
    points = verdict(found)
    sections = [Section(title="In short", points=points)] if points else []
    means = found.summary()["mean"]
    if len(found.cells) > 1:
        said = f"Means over the attributes. {shared(next(iter(means.values())))} {LEFT_OUT}"
        sections.append(Section(title="All attributes", rows=overview(found), cards=True, text=[said]))
    sections += [attribute(name, cells, found.rows[name]) for name, cells in found.cells.items()]
    for name, several in found.properties.items():
        sections += [of_property(name, one) for one in several]
    if found.left_out:
        sections.append(Section(title="What was left out", points=[Point(text=one) for one in found.left_out]))
    used = [method for cells in found.cells.values() for method in cells]
    terms = {METHODS[method].title: METHODS[method].meaning for method in dict.fromkeys(used)}
    sections.append(Section(title="The methods", terms=terms))
    return write_page(path, f"Editing {run} in its bottleneck", sections, summary=summary(study))


def overview(found: Findings) -> list[dict[str, str]]:
    """Means over the attributes, a row for each method."""
    rows = []
    for method, figures in found.summary()["mean"].items():
        line = {"method": METHODS[method].title, **{COLUMNS[key]: text(key, figures[key]) for key in SHOWN_COLUMNS}}
        # one attribute that hardly moves would make all of the mean
        if any(cells[method].figures.change < MOVED for cells in found.cells.values()):
            line[COLUMNS["leakage"]] = ""
        rows.append(line)
    return rows


def summary(study: HspaceStudy) -> list[str]:
    """What was done, for somebody who knows nothing of it."""
    options, shop = study.options, study.shop
    quick = [] if any(getattr(options, name) != value for name, value in QUICK.items()) else [
        "This is a quick run: a few images and iterations, to see that everything works. Its figures mean nothing."
    ]  # fmt: skip
    labels = [] if shop.reference is None else [
        "z_sem's attributes, which f_t, fine-tuning, guidance and z_sem itself go by, are learned from up to "
        f"{shop.reference.labels} labelled training images."
    ]  # fmt: skip
    kept = "whatever becomes of all others" if options.regardless else "the attribute flipped, all others as they were"
    return [
        *quick,
        "A diffusion model turns noise into images step by step. Between the two halves of its network lies h, a small "
        "map of numbers that says what the noisy image shows. Shifting h on the way from noise to image changes what "
        "the image shows, while the network stays as it is. This page compares the ways to find such a shift, and what "
        "else can edit an image with the same network.",
        f"{len(study.edited)} images that no training saw are taken to noise and back in {options.steps} steps, and in "
        f"each an attribute is flipped: given where it is missing (a probability of {HIGH:g} is asked for), taken away "
        f"where it is there ({LOW:g}). h is shifted at timesteps from {shop.t_edit:g} up. An independent network "
        "judges the pictures, its probabilities calibrated on other held-out images.",
        f"Directions are found from {len(shop.learning)} labelled training images, f_t and new weights from "
        f"{shop.trained_from} of these. How far to go is chosen on {options.tuned_on} other training images: of a few "
        f"amounts the one whose edits come nearest to what was asked for, as the judge sees it: {kept}. The held-out "
        "images are not used for that.",
        *labels,
        MEANING,
    ]


def verdict(found: Findings) -> list[Point]:
    """The best method in h of every attribute, what f_t took, and how equal edits are over steps."""
    points = []
    for name, cells in found.cells.items():
        in_h = {m: cell for m, cell in cells.items() if METHODS[m].in_h}
        if in_h:
            best = best_of(in_h)
            figures = in_h[best].figures
            beside = f" (z_sem: {seen_and_harm(cells['z_sem'])})" if "z_sem" in cells else ""
            mark = "good" if figures.hit >= RATES else "fair" if figures.hit >= RATES / 2 else "poor"
            if mark == "good" and not tolerable(in_h[best]):
                mark = "fair"
            said = f"{words(name)}, of {figures.n} images: {METHODS[best].title} {seen_and_harm(in_h[best])}{beside}."
            points.append(Point(text=said, mark=mark))
        if "f_t" in cells:
            minutes = sum(cells["f_t"].seconds.values()) / 60
            mark = "good" if minutes <= MINUTES else "poor"
            points.append(Point(text=f"{words(name)}: f_t took {minutes:.1f} minutes.", mark=mark))
    for name, several in found.properties.items():
        points += [consistent(name, one) for one in several if one.name == CONSISTENCY]
    return points


def best_of(cells: Mapping[str, Cell]) -> str:
    """The method whose edits are seen most often, of those that change little else where there are such."""
    return max(cells, key=lambda method: (tolerable(cells[method]), cells[method].figures.hit))


def tolerable(cell: Cell) -> bool:
    """Whether an edit changes mostly what it should."""
    leakage = cell.figures.leakage
    return cell.figures.change >= MOVED and leakage is not None and leakage <= TOLERABLE


def seen_and_harm(cell: Cell) -> str:
    """How often an edit is seen, and what else it changes."""
    harm = cell.figures.leakage if cell.figures.change >= MOVED else None
    return f"seen in {cell.figures.hit:.0%}" + ("" if harm is None else f" with a leakage of {harm:.2f}")


def consistent(name: str, one: Property) -> Point:
    """Whether an edit is as strong at any number of steps."""
    steps, off = ", ".join(map(str, one.figures["steps"])), one.figures[SYMMETRIC]["off"]
    if off is None:
        last = one.figures["steps"][-1]
        return Point(text=f"{words(name)}: over {last} steps the judge's logit hardly changes: nothing to compare.")
    others = {what: one.figures.get(walk, {}).get("off") for what, walk in (("f_t", TRAINED), ("published", PUBLISHED))}
    known = ", ".join(f"{what}: {value:.0%}" for what, value in others.items() if value is not None)
    beside = f" ({known})" if known else ""
    said = f"{words(name)}: over {steps} steps the change of the judge's logit differs by {off:.0%} at most{beside}."
    return Point(text=said, mark="good" if off <= ALIKE else "poor")


def attribute(name: str, cells: Mapping[str, Cell], originals: Mapping[str, Tensor]) -> Section:
    """One attribute: a row for each method, and their pictures."""
    rows = [row(method, cell) for method, cell in cells.items()]
    in_h = {method: cell for method, cell in cells.items() if METHODS[method].in_h}
    best = [list(cells).index(best_of(in_h))] if in_h else []
    pictures = {**originals, **{METHODS[method].title: cell.pictures for method, cell in cells.items()}}
    figures = asdict(next(iter(cells.values())).figures)
    return Section(
        title=words(name), id=name, rows=rows, best=best, cards=True,
        text=[f"n = {figures['n']} images for every method. {shared(figures)} {LEFT_OUT}"],
        terms={
            "given, taken": "– edits seen of images that lacked the attribute, and of those that had it",
            "amount": "– chosen on training images; in units of the method. At the end: more, or less, was not tried",
            "seconds": "– and of that to find the direction or train, to choose the amount, and to edit; h and the "
            "codes of the images, which methods share, are left out. The mean of f_t counts its training too",
        },
        pictures=[sheet(pictures, "Originals, the true counterfactuals, and what each method makes of the originals.")],
    )  # fmt: skip


def shown(key: str, figures: Mapping[str, float | int | None]) -> str:
    """A figure of one method and attribute; leakage only where there is a change to compare it with."""
    if key == "leakage" and (figures["change"] or 0) < MOVED:
        return ""
    return text(key, figures[key])


def shared(figures: Mapping[str, float | int | None]) -> str:
    """A sentence of what is the same for all methods, from the figures of any."""
    said = [f"{meaning} {text(key, figures[key])}" for key, meaning in BESIDE.items() if figures[key] is not None]
    return f"Before any edit: {', '.join(said)}."


def row(method: str, cell: Cell) -> dict[str, str]:
    """A method's figures, with intervals below them."""
    figures, every = {}, asdict(cell.figures)
    for key in SHOWN_COLUMNS:
        figure, ends = shown(key, every), cell.intervals.get(key)
        beside = f"\n{text(key, ends.low)} to {text(key, ends.high)}" if figure and ends is not None else ""
        figures[COLUMNS[key]] = figure + beside
    shares = ["–" if share is None else f"{share:.0%}" for share in (cell.given, cell.taken)]
    return {
        "method": METHODS[method].title, **figures, "given, taken": ", ".join(shares),
        "amount": amount(cell),
        "seconds": f"{sum(cell.seconds.values()):.0f}\n" + " + ".join(f"{one:.0f}" for one in cell.seconds.values()),
    }  # fmt: skip


def amount(cell: Cell) -> str:
    """What was chosen, and whether it lies at an end of what was tried."""
    if not cell.tried:
        return ""
    tried = [float(one) for one in cell.tried]
    return f"{cell.amount:g}" + ("\nat the end" if cell.amount in {min(tried), max(tried)} else "")


def of_property(name: str, one: Property) -> Section:
    """One property: what was done, its figures, a strip of pictures."""
    title = one.name if name == "combination" else f"{words(name)}: {one.name}"
    return Section(title=title, text=[one.meaning], rows=one.rows, pictures=[sheet(one.pictures, f"{title}.")])


def sheet(rows: Mapping[str, Tensor], caption: str) -> Picture:
    """Rows of pictures with captions."""
    pictures: Sequence[Tensor] = [displayable(part) for part in rows.values()]
    scale = max(1, SCALED // pictures[0].shape[-1])
    return Picture(image=grid(*pictures, captions=list(rows), scale=scale), caption=caption)


def words(name: str) -> str:
    """A name of a table as people write it."""
    return name.replace("_", " ")
