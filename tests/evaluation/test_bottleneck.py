"""The study of h-space on small faces and untrained models: every method, what is kept, what its figures mean."""

import copy
import hashlib
import json
import re
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from zsem.evaluation.attributes import labelled_part
from zsem.evaluation.bench_edit import semantics_of
from zsem.evaluation.bottleneck.cells import Findings
from zsem.evaluation.bottleneck.methods import METHODS
from zsem.evaluation.bottleneck.options import StudyOptions
from zsem.evaluation.bottleneck.page import MOVED, best_of, consistent, overview, shown, verdict, write_study
from zsem.evaluation.bottleneck.properties import (
    CONSISTENCY,
    PUBLISHED,
    SYMMETRIC,
    TRAINED,
    Case,
    consistency,
    strength,
)
from zsem.evaluation.bottleneck.study import HspaceStudy, both_ways
from zsem.evaluation.bottleneck.workshop import Faces, Method, Reference, as_long, difference, mean_shift, plain
from zsem.hspace.edits import symmetric
from zsem.models.judge import Judge
from zsem.nets.encoder import SemanticEncoder
from zsem.values.direction import Direction
from zsem.values.errors import ZsemError

OPTIONS = StudyOptions(
    attributes=("smile", "glasses"), number=3, steps=3, learned_from=24, trained_from=16, tuned_on=2, of_properties=2,
    shift_iterations=1, tuning_iterations=1, consistent_steps=(2, 3), batch_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(random_diffusion):
    return random_diffusion(16)


@pytest.fixture(scope="module")
def judge(images):
    torch.manual_seed(0)
    net = SemanticEncoder.Config(channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(), pool=2)
    made = Judge(Judge.Config(attributes=tuple(images.attributes), image_size=16, net=net)).eval()
    checksum = hashlib.sha256(images.split("train").pixels.numpy().data).hexdigest()
    made.history = {"images_sha256": checksum, "iterations": 10**6}
    return made


@pytest.fixture(scope="module")
def reference(small_model, images):
    other = copy.deepcopy(small_model)  # its statistics are measured here
    other.measure_codes(images.split("train"), images.held_out())
    return Reference(model=other, semantics=semantics_of(other, images, 150), labels=150)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def study(model, images, judge, folder, reference):
    return HspaceStudy(model, images, judge, folder, OPTIONS, reference=reference, t_edit=300)


@pytest.fixture(scope="module")
def found(study):
    return study.run()


def test_every_method_is_measured_by_the_figures_of_bench_edit(found, study):
    assert list(found.cells) == ["smile", "glasses"] and not found.left_out
    for name, cells in found.cells.items():
        assert list(cells) == list(METHODS)
        n = len(study.flips(name))
        for method, cell in cells.items():
            assert cell.figures.n == n
            assert None not in (cell.figures.error, cell.figures.unedited)
            assert "hit" in cell.intervals
            assert set(cell.seconds) == {"find", "choose", "edit"}
            assert (len(cell.tried) >= 3) == (method != "z_sem")
        assert len({cell.figures.unedited for cell in cells.values()}) == 1
        assert set(found.rows[name]) == {"original", "truth"}


def test_hits_are_those_of_what_is_given_and_of_what_is_taken_away(found, study):
    for name, cells in found.cells.items():
        given = int((study.flips(name).requested > 0.5).sum())
        for cell in cells.values():
            n = cell.figures.n
            hits = (cell.given or 0) * given + (cell.taken or 0) * (n - given)
            assert hits / n == pytest.approx(cell.figures.hit)


def test_the_amount_is_the_best_of_those_that_were_tried(found):
    for cells in found.cells.values():
        for cell in cells.values():
            if cell.tried:
                assert cell.tried[f"{cell.amount:g}"] == min(cell.tried.values())


def test_what_is_tuned_on_is_neither_learned_from_nor_held_out(study):
    faces, asked = study.tuning_faces("smile")
    paths = set(faces.images.paths)
    assert len(paths) == 2 and sorted(asked.tolist()) == [0.1, 0.9]
    assert not paths & {*study.shop.learning.paths, *study.edited.paths, *study.others.paths}


def test_trainings_see_the_first_of_what_directions_are_found_from(model, images, judge, tmp_path):
    def learning(**options):
        study = HspaceStudy(model, images, judge, tmp_path, replace(OPTIONS, **options))
        return study.shop.learning.paths, study.tuning_faces("smile")[0].images.paths

    (few, tuning), (more, as_before) = learning(learned_from=16), learning(learned_from=24)
    assert len(few) == 16 and len(more) == 24
    assert more[:16] == few and as_before == tuning
    half = len(labelled_part(images.split("train"))) // 2
    assert len(learning(learned_from=10**6)[0]) == half > 24


def test_amounts_are_extended_where_the_best_lies_at_an_end(study, monkeypatch):
    asked = []
    monkeypatch.setattr(study, "options", replace(study.options, regardless=True))

    def measured(best, **settings):
        tried = []

        def change(faces, sign, amount):
            tried.append(amount)
            return torch.full((len(faces), 3, 16, 16), abs(amount - best))

        monkeypatch.setattr(study.model, "display", lambda edited: edited)
        # of the images themselves nothing is known; of edited ones the error is what `change` says
        monkeypatch.setattr(study, "tuning_faces", lambda name: asked[0])
        monkeypatch.setattr(
            study, "seen", lambda edited: edited[:, 0, 0, :1].double().expand(-1, len(study.judge.config.attributes))
        )
        return study.chosen("smile", Method(edit=change, amounts=(1.0, 2.0), **settings))

    faces, _ = study.tuning_faces("smile")
    asked.append((faces, torch.zeros(len(faces), dtype=torch.float64)))
    assert measured(8)[0] == 8
    assert measured(100)[0] == 16  # not for ever
    assert measured(100, most=3.0)[0] == 2
    assert measured(0.4)[0] == 0.5
    assert measured(1.4) == (1.0, pytest.approx({"0.5": 0.9, "1": 0.4, "2": 0.6}))


def test_amounts_spare_other_attributes_unless_told_otherwise(study, monkeypatch):
    """An edit of 4 is all that is asked for, and changes everything else; smaller ones are not, and spare the rest."""
    faces, asked = study.tuning_faces("smile")
    column = study.judge.config.attributes.index("smile")

    def judged(edited):
        amount = float(edited[0, 0, 0, 0])
        seen = faces.before + (0 if amount < 4 else 0.5)
        seen[:, column] = asked + (0.4 if amount < 4 else 0)
        return seen

    monkeypatch.setattr(study.model, "display", lambda edited: edited)
    monkeypatch.setattr(study, "seen", judged)
    made = Method(edit=lambda part, sign, amount: torch.full((len(part), 3, 16, 16), amount), amounts=(0.5, 1.0, 4.0))
    others = len(study.judge.config.attributes) - 1
    assert study.chosen("smile", made) == (0.5, pytest.approx({"0.25": 0.4, "0.5": 0.4, "1": 0.4, "4": others / 2}))
    monkeypatch.setattr(study, "options", replace(study.options, regardless=True))
    assert study.chosen("smile", made)[0] == 4
    monkeypatch.setattr(study, "classes", frozenset(study.judge.config.attributes))
    assert study.counted("smile") == [column]


def test_edits_go_the_way_that_is_asked_for(study):
    faces = study.faces
    made = Method(edit=lambda part, sign, amount: torch.full((len(part), 3, 16, 16), sign * amount))
    out = both_ways(made, faces, torch.tensor([0.9, 0.1, 0.9], dtype=torch.float64), 0.5)
    assert out[:, 0, 0, 0].tolist() == [0.5, -0.5, 0.5]


def test_an_amount_of_nothing_gives_the_images_back(study):
    for name in ("mean", "global", "pca", "boundary", "injection"):
        made = METHODS[name].find(study.shop, "smile")
        assert torch.equal(made.edit(study.faces, 1, 0.0), study.model.decode(study.faces.codes, batch_size=4)), name


def test_the_mean_difference_is_that_of_h(study):
    shift = difference(study.shop, "smile")
    labels = study.shop.labels("smile")
    h = study.shop.collected.h
    assert np.allclose(shift.vector, h[labels == 1].mean(0) - h[labels == 0].mean(0), atol=1e-5)
    assert min(shift.timesteps) >= study.shop.t_edit == min(study.shop.interval)
    edited = METHODS["mean"].find(study.shop, "smile").edit(study.faces, -1, 2.0)
    codes, interval = study.faces.codes, study.shop.interval
    assert torch.equal(edited, symmetric(study.model, codes, shift * -1, gain=2, interval=interval))


def test_directions_are_made_as_long_and_only_turned_where_their_sign_says_nothing(study):
    like = difference(study.shop, "smile")
    against = -3 * like.vector.mean(dim=0)
    other = Direction(space="h", vector=against, unit="one", name="other", model=like.model)
    for turn in (False, True):
        made = as_long(other, like, turn=turn)
        assert float(made.vector.norm()) == pytest.approx(float(like.vector.norm()), rel=1e-5)
        assert (float((made.vector * like.vector).sum()) > 0) == turn
        assert made.timesteps == like.timesteps
    component = METHODS["pca"].find(study.shop, "smile").shift
    assert float((component.vector * like.vector).sum()) > 0


def test_the_mean_of_a_shift_is_over_images_at_every_timestep(study):
    h = study.shop.collected.h[:5]
    mean = mean_shift(study.shop, lambda h, t: h * t[:, None, None, None], h, "smile")
    times = np.array(study.shop.collected.timesteps)[:, None, None, None]
    assert np.allclose(mean.vector, (h * times).mean(0), rtol=1e-4, atol=1e-3)


def test_injected_content_is_of_an_image_that_has_what_is_wanted(study, monkeypatch):
    used = []

    def inject(model, codes, reference, **settings):
        used.append(reference.h)
        return torch.zeros(len(codes), 3, 16, 16)

    monkeypatch.setattr("zsem.evaluation.bottleneck.methods.inject", inject)
    made = METHODS["injection"].find(study.shop, "glasses")
    h, labels = study.shop.collected.h, study.shop.labels("glasses")
    for sign in (1, -1):
        made.edit(study.faces, sign, 0.5)
        for one in used.pop():
            (row,) = [i for i, other in enumerate(h) if np.array_equal(one, other)]
            assert labels[row] == (sign > 0)


def test_properties_have_figures_and_pictures(found):
    assert set(found.properties) == {"smile", "glasses", "combination"}
    strength, homogeneity, robustness, consistency = found.properties["smile"]
    assert len(strength.figures["logits"]) == len(strength.figures["strengths"]) == 9
    assert {"f_t of one training image", "mean difference of all images"} <= set(homogeneity.figures)
    assert robustness.figures["a random shift of h, as long"]["mse"] > 0
    eps = robustness.figures["a random shift of eps, as large as the attribute's"]
    assert eps["mse"] > 0 and eps["grain"] > 0
    assert len(consistency.figures["symmetric, UniPC-2"]["changes"]) == 2
    (both,) = found.properties["combination"]
    assert set(both.figures) == {"n", "unedited", "smile", "glasses", "smile + glasses"}
    for several in found.properties.values():
        assert all(one.pictures and one.rows for one in several)


def test_a_study_that_was_stopped_goes_on_where_it_was(found, study, model, images, judge, folder, reference):
    again = HspaceStudy(model, images, judge, folder, OPTIONS, reference=reference, t_edit=300)
    again.shop.__dict__["collected"] = None  # nothing is learned again
    assert again.run().summary() == found.summary()


def test_other_options_leave_what_is_done_and_trained_as_it_is(found, model, images, judge, folder, reference):
    other = replace(OPTIONS, steps=2, methods=("f_t",), attributes=("smile",), of_properties=0)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    HspaceStudy(model, images, judge, folder, other, reference=reference, t_edit=300).run()
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert before.items() < after.items()
    assert len(list((folder / "trained").glob("*/smile-f_t/run.json"))) == 2


def test_a_result_depends_on_what_matters_to_it(model, images, judge, folder, study):
    def changed(by=OPTIONS, reference=study.shop.reference):
        other = HspaceStudy(model, images, judge, folder, by, reference=reference, t_edit=300)
        return {name for name in METHODS if other.cell_origin("smile", name) != study.cell_origin("smile", name)}

    assert changed(replace(OPTIONS, seed=1)) == set(METHODS)
    asking = {name for name, kind in METHODS.items() if kind.asks}
    assert changed(reference=None) == asking == {"f_t", "f_t-mean", "classifier", "tuned", "z_sem"}
    assert changed(reference=replace(study.shop.reference, labels=99)) == asking
    assert not changed(replace(OPTIONS, batch_size=2, consistent_steps=(2,), of_properties=1))
    assert changed(replace(OPTIONS, shift_iterations=2)) == {"f_t", "f_t-mean"}
    assert changed(replace(OPTIONS, tuning_iterations=2)) == {"tuned"}


def test_names_of_attributes_are_names_of_files():
    assert plain("Wearing_Hat") == "Wearing_Hat"
    assert re.fullmatch(r"--a-b-[0-9a-f]{8}", plain("./a b"))
    assert plain("a b") != plain("a/b")


def test_seconds_count_a_training_whole_and_nothing_that_is_shared(found, model, images, judge, tmp_path, study):
    for name, cells in found.cells.items():
        for method, what in (("f_t", "f_t"), ("f_t-mean", "f_t"), ("tuned", "tuned")):
            spent = study.shop.spent[name, what]
            assert spent > 0 and cells[method].seconds["find"] >= spent - 0.01
    resumed = copy.deepcopy(judge)
    resumed.history = {"minutes": 10}
    assert study.shop.trained("hat", "tuned", lambda: [resumed, resumed]) == [resumed, resumed]
    assert study.shop.spent["hat", "tuned"] == 1200
    options = replace(OPTIONS, methods=("mean",), attributes=("smile",), of_properties=0)
    slow = HspaceStudy(model, images, judge, tmp_path, options)
    share, ends = slow.share, []

    def shared(name, method):
        time.sleep(0.3)
        share(name, method)
        assert "faces" in vars(slow) and "collected" in vars(slow.shop) and name in slow._tuning
        ends.append(time.monotonic())

    slow.share = shared
    seconds = slow.run().cells["smile"]["mean"].seconds
    assert len(ends) == 1 and sum(seconds.values()) < time.monotonic() - ends[0] + 0.03  # they are rounded


def test_what_cannot_be_told_of_shifts_is_left_out(found, model, images, judge, tmp_path):
    options = replace(OPTIONS, methods=("global",), attributes=("smile",))
    told = HspaceStudy(model, images, judge, tmp_path, options).run()
    assert not told.properties and "mean difference, which --methods lacks" in told.left_out[0]
    everything = HspaceStudy(model, images, judge, tmp_path, OPTIONS)
    labels = everything.edited.attributes
    everything.edited = replace(everything.edited, attributes={name: np.ones_like(labels[name]) for name in labels})
    nothing = Findings(cells=found.cells)
    everything.add_properties(nothing, [everything.flips(name) for name in found.cells])
    assert not nothing.properties
    assert [left.split(":")[1] for left in nothing.left_out] == [
        " none of the edited images lacks it", " none of the edited images lacks it",
        " none of the edited images lacks both",
    ]  # fmt: skip


def test_the_page_says_how_many_labels_are_behind_z_sem(found, study, tmp_path):
    page = write_study(tmp_path / "study.html", study, found, "faces").read_text("utf-8")
    assert "are learned from up to 150 labelled training images" in page
    assert "quick run" not in page and "Before any edit: seen as asked for" in page


def test_an_edit_that_changes_all_else_is_not_called_good(found, study, tmp_path):
    name = next(iter(found.cells))

    def best(hit, leakage):
        cell = found.cells[name]["mean"]
        figures = replace(cell.figures, hit=hit, leakage=leakage, change=0.5)
        (point,) = verdict(replace(found, cells={name: {"mean": replace(cell, figures=figures)}}, properties={}))
        return point.mark, point.text.split("symmetric ")[1]

    assert best(0.9, 0.5) == ("good", "seen in 90% with a leakage of 0.50.")
    assert best(0.9, 1.5) == ("fair", "seen in 90% with a leakage of 1.50.")
    assert best(0.5, 0.1)[0] == "fair" and best(0.1, None) == ("poor", "seen in 10%.")
    cells = {
        method: replace(cell, figures=replace(cell.figures, hit=hit, leakage=leakage, change=0.5))
        for (method, hit, leakage), cell in zip(
            [("mean", 0.6, 0.1), ("global", 0.7, 0.4), ("asymmetric", 0.9, 1.5)], found.cells[name].values(),
            strict=False,
        )
    }  # fmt: skip
    assert best_of(cells) == "global"
    beside_h = replace(found, cells={name: {"sdedit": found.cells[name]["sdedit"]}}, properties={})
    assert "In short" not in write_study(tmp_path / "study.html", study, beside_h, "faces").read_text("utf-8")


def test_leakage_is_told_where_the_target_moves(found):
    figures = asdict(next(iter(found.cells["smile"].values())).figures)
    assert shown("leakage", {**figures, "change": 0.5, "leakage": 0.25}) == "0.25"
    assert shown("leakage", {**figures, "change": MOVED / 2, "leakage": 2500.0}) == ""
    assert shown("hit", {**figures, "change": MOVED / 2, "hit": 0.5}) == "50%"


@pytest.mark.parametrize(("change", "leakage"), [(0.5, "0.25"), (MOVED / 2, "")])
def test_a_mean_has_leakage_where_every_target_moves(found, change, leakage):
    (method, one), *_ = found.cells["smile"].items()
    cells = {
        name: {method: replace(one, figures=replace(one.figures, change=moved, leakage=0.25))}
        for name, moved in (("smile", 0.5), ("glasses", change))
    }
    assert [row["leakage"] for row in overview(Findings(cells=cells))] == [leakage]


def test_two_classes_are_not_given_at_once(model, images, judge, tmp_path):
    study = HspaceStudy(model, images, judge, tmp_path, OPTIONS, classes=("smile", "glasses"))
    assert set(study.pairs(["smile", "glasses", "beard"])) == {("smile", "beard"), ("glasses", "beard")}


def test_a_logit_that_does_not_change_is_nothing_to_compare(study):
    case = Case(study.setting, "smile", study.faces, {"mean": 0.0})
    made = consistency(case)
    assert made.name == CONSISTENCY and made.figures[SYMMETRIC]["off"] is None
    assert made.rows[0]["largest difference to 3 steps"] == "–"
    assert "hardly changes" in consistent("smile", made).text


def test_how_equal_an_edit_is_over_steps_is_said_of_f_t_too(found):
    (told,) = [one for one in found.properties["smile"] if one.name == CONSISTENCY]
    figures = {SYMMETRIC: {"off": 0.04}, TRAINED: {"off": 0.02}, PUBLISHED: {"off": None}}
    point = consistent("smile", replace(told, figures={**told.figures, **figures}))
    assert point.mark == "good" and point.text.endswith("differs by 4% at most (f_t: 2%).")


def test_a_shift_of_nothing_is_no_line(study):
    figures = strength(Case(study.setting, "smile", study.faces, {"mean": 0.0})).figures
    assert figures["r2"] == 0 and figures["monotone"] == 0


def test_only_what_asks_f_t_is_estimated_to_train_it(model, images, judge, tmp_path, reference, monkeypatch):
    def estimated(*methods, iterations):
        options = replace(OPTIONS, methods=methods, shift_iterations=iterations, of_properties=0)
        study = HspaceStudy(model, images, judge, tmp_path, options, reference=reference)
        monkeypatch.setattr(study, "seconds_per_image", lambda: 1.0)
        return study.estimate()

    assert estimated("mean", iterations=1000) == estimated("mean", iterations=1)
    longer = [estimated(*some, iterations=9) - estimated(*some, iterations=1) for some in
              (("f_t",), ("f_t-mean",), ("f_t", "f_t-mean"))]  # fmt: skip
    assert longer[0] > 0 and longer == [longer[0]] * 3


def test_without_an_autoencoder_its_methods_are_left_out(model, images, judge, tmp_path):
    options = replace(OPTIONS, methods=("mean", "f_t", "z_sem"), attributes=("smile",), of_properties=0)
    found = HspaceStudy(model, images, judge, tmp_path, options).run()
    assert list(found.cells["smile"]) == ["mean"]
    assert [left.split(":")[0] for left in found.left_out] == [METHODS["f_t"].title, METHODS["z_sem"].title]
    with pytest.raises(ZsemError, match="give --autoencoder"):
        HspaceStudy(model, images, judge, tmp_path, replace(options, methods=("f_t",)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"methods": ("magic",)}, "magic is none: choose among mean"),
        ({"attributes": ("wings",)}, "has no labels of wings: choose --attributes among"),
        ({"number": 0}, "--number must be at least 1"),
        ({"number": 20}, "only 30 are held out"),
        ({"trained_from": 500}, "500 training images or more and their amounts chosen on 2 others"),
    ],
)
def test_what_cannot_be_studied_is_told(model, images, judge, tmp_path, change, sentence):
    with pytest.raises(ZsemError, match=sentence):
        HspaceStudy(model, images, judge, tmp_path, replace(OPTIONS, **change))


def test_the_command_writes_a_page_and_figures(zsem, model, judge, faces, tmp_path):
    model.save(tmp_path / "model")
    judge.save(tmp_path / "judge")
    code, out, err = zsem(
        "hspace", "study", tmp_path / "model", faces, "--judge", tmp_path / "judge", "--out", tmp_path / "out",
        "--attributes", "smile", "--methods", "mean,sdedit,f_t", "--quick", "--json",
    )  # fmt: skip
    assert code == 0, err
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    assert json.loads(out) == figures
    assert list(figures["attributes"]["smile"]) == ["mean", "sdedit"]
    assert [left.split(":")[0] for left in figures["left_out"]] == [METHODS["f_t"].title]
    page = (tmp_path / "out" / "study.html").read_text("utf-8")
    for text in ("quick run", "SDEdit", "robustness to random shifts", "95 % interval", "was left out"):
        assert text in page
    assert "minutes on this machine" in err


def test_faces_are_picked_with_their_codes(study):
    faces = Faces(images=study.edited, codes=study.faces.codes, before=study.before)[[2, 0]]
    assert faces.images.paths == [study.edited.paths[2], study.edited.paths[0]]
    assert torch.equal(faces.codes.noise.x_T[1], study.faces.codes.noise.x_T[0])
