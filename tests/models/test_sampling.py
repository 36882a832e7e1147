"""Samples of diffusion models under guidance, step by step, from given noise; and their likelihood."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from zsem.diffusion.denoiser import bind
from zsem.diffusion.guidance import ClassifierGuidance, Clip, Extrapolate, SemanticGuidance
from zsem.diffusion.likelihood import bits_per_dim
from zsem.diffusion.schedule import NoiseSchedule, TimeGrid
from zsem.diffusion.solvers import SOLVERS, last
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.nets.unet import HalfUNet, UNet
from zsem.values import draws
from zsem.values.codes import slerp
from zsem.values.errors import ZsemError
from zsem.values.prediction import Condition

SMALL = UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=32)
PLAIN = DiffusionModel.Config(image_size=16, unet=SMALL)
GUIDABLE = replace(PLAIN, learned_range=True, class_dropout=0.1, unet=replace(SMALL, num_classes=3))
JUDGE = NoisyClassifier.Config(
    image_size=16, num_outputs=3, net=HalfUNet.Config(channels=16, channel_mult=(1, 2), embed_channels=32, dropout=0.5)
)


def awake(kind, config):
    """No layer silent, none tame."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else parameter.data.mul_(1.3)
    return model.eval()


@pytest.fixture(scope="module")
def plain():
    return awake(DiffusionModel, PLAIN)


@pytest.fixture(scope="module")
def guidable():
    return awake(DiffusionModel, GUIDABLE)


@pytest.fixture(scope="module")
def judge():
    return awake(NoisyClassifier, JUDGE)


@pytest.fixture
def count():
    """Counts the forward passes of a model, and their images."""
    handles = []

    def watch(model):
        seen = {"calls": 0, "images": 0}

        def note(_, inputs, __):
            seen["calls"] += 1
            seen["images"] += len(inputs[0])

        network = model.unet if isinstance(model, DiffusionModel) else model.net
        handles.append(network.register_forward_hook(note))
        return seen

    yield watch
    for handle in handles:
        handle.remove()


def test_no_class_is_one_thing_however_it_is_said(guidable):
    x_t, t = torch.randn(3, 3, 16, 16), torch.tensor([0.0, 400.0, 900.0])
    with torch.no_grad():
        none = guidable.unet(x_t, t, Condition())
        said = guidable.unet(x_t, t, Condition(classes=torch.full((3,), -1)))
        mixed = guidable.unet(x_t, t, Condition(classes=torch.tensor([-1, 2, -1])))
        told = guidable.unet(x_t, t, Condition(classes=torch.full((3,), 2)))
    assert torch.equal(said, none)
    torch.testing.assert_close(mixed[[0, 2]], none[[0, 2]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1], told[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(told, none, atol=1e-2)


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_classifier_free_guidance_is_an_extrapolation_in_one_batch(guidable, count, solver):
    seen = count(guidable)
    options = {"classes": [0, 2], "solver": solver, "steps": 4}
    guided = guidable.sample(2, guidance_scale=3, **options)
    assert seen == {"calls": 4, "images": 16}
    by_hand = Clip(Extrapolate(guidable.denoiser, Condition(), Condition(classes=torch.tensor([0, 2])), 3.0))
    noise = lambda i: draws.normal([(0, row, i) for row in (0, 1)], (3, 16, 16))  # noqa: E731
    own = {"noise": noise, "variance": "learned"} if solver == "ddpm" else {}
    grid, x_T = TimeGrid.make(guidable.schedule, 4), guidable.fresh_noise(2).x_T
    torch.testing.assert_close(guided, last(SOLVERS[solver](by_hand, x_T, grid, **own))[0].float(), atol=1e-3, rtol=0)
    assert not torch.allclose(guided, guidable.sample(2, **options), atol=1e-2)


def test_scale_0_makes_images_of_no_class(guidable):
    options = {"solver": "ddim", "steps": 4, "guidance_scale": 0}
    assert torch.equal(guidable.sample(2, classes=0, **options), guidable.sample(2, classes=[1, 2], **options))


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_guidance_is_no_guidance_to_the_bit(guidable, judge, count, solver):
    options = {"classes": [0, 2], "solver": solver, "steps": 3}
    expected = guidable.sample(2, **options)
    seen, judged = count(guidable), count(judge)
    again = guidable.sample(2, guidance_scale=1, classifier=judge, classifier_scale=0.0, **options)
    assert torch.equal(again, expected)
    assert seen == {"calls": 6 if solver == "heun" else 3, "images": 12 if solver == "heun" else 6}
    assert judged["calls"] == 0


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("through", ["denoiser", "x0"])
def test_scalars_of_weight_0_are_no_guidance_to_the_bit(guidable, judge, solver, through):
    def scalar(x0):
        raise AssertionError("evaluated")

    options = {"classes": [0, 2], "solver": solver, "steps": 2, "guidance_scale": 2.0, "scalars_through": through}
    options |= {"classifier": judge, "classifier_scale": 1.0}
    expected = guidable.sample(2, **options)
    assert torch.equal(guidable.sample(2, scalars=[], **options), expected)
    assert torch.equal(guidable.sample(2, scalars=[(0.0, scalar), (0, scalar)], **options), expected)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"guidance_scale": 2.0, "guidance_rescale": 0.5},
        {"classifier_scale": 3.0, "scalars_through": "x0"},
        {"guidance_scale": 2.0, "classifier_scale": 3.0, "guidance_interval": (100, 900)},
    ],
)
def test_scalars_guide_with_every_solver_and_every_other_guidance(guidable, judge, solver, others):
    scalars = [(2.0, lambda x0: -(x0 - 0.5).square().mean(dim=(1, 2, 3))), (-1.0, lambda x0: x0[:, 0].mean(dim=(1, 2)))]
    options = {"classes": [0, 2], "solver": solver, "steps": 3, "classifier": judge, **others}
    guided = guidable.sample(2, scalars=scalars, scalars_normalised=True, **options)
    told, interval = Condition(classes=torch.tensor([0, 2])), others.get("guidance_interval")
    by_hand = Extrapolate(
        guidable.denoiser, Condition(classes=torch.full((2,), -1)), told, others.get("guidance_scale", 1),
        rescale=others.get("guidance_rescale", 0), interval=interval,
    )  # fmt: skip
    judged = judge.log_prob(told.classes)
    by_hand = ClassifierGuidance(by_hand, judged, others.get("classifier_scale", 0), interval=interval)
    through = others.get("scalars_through", "denoiser")
    by_hand = Clip(SemanticGuidance(by_hand, scalars, through=through, normalise=True, interval=interval))
    noise = lambda i: draws.normal([(0, row, i) for row in (0, 1)], (3, 16, 16))  # noqa: E731
    own = {"noise": noise, "variance": "learned"} if solver == "ddpm" else {}
    walk = SOLVERS[solver](by_hand, guidable.fresh_noise(2).x_T, TimeGrid.make(guidable.schedule, 3), **own)
    torch.testing.assert_close(guided, last(walk)[0].float(), atol=1e-5, rtol=0)
    assert not torch.allclose(guided, guidable.sample(2, **options), atol=1e-2)


def test_progress_under_scalars(plain):
    options = {"solver": "ddim", "steps": 3, "scalars": [(5.0, lambda x0: x0.mean(dim=(1, 2, 3)))]}
    *_, end = plain.progressive(2, **options)
    torch.testing.assert_close(end, plain.sample(2, **options), atol=1e-6, rtol=0)
    assert float(end.mean()) > float(plain.sample(2, solver="ddim", steps=3).mean())


@pytest.mark.parametrize(
    ("solver", "form"), [("unipc", "score"), ("ddim", "score"), ("ddpm", "score"), ("ddpm", "mean")]
)
def test_a_classifier_tells_a_model_without_classes_what_to_make(plain, judge, count, solver, form):
    options = {"solver": solver, "steps": 4, "classes": [0, 2]}
    judged = count(judge)
    judge.train()  # it has dropout, which must not reach the samples
    guided = plain.sample(2, classifier=judge, classifier_scale=30, classifier_form=form, **options)
    assert judge.training
    judge.eval()
    assert judged == {"calls": 4, "images": 8}
    log_prob = judge.log_prob(torch.tensor([0, 2]))
    by_hand = Clip(ClassifierGuidance(bind(plain.denoiser, Condition()), log_prob, 30, form=form))
    noise = lambda i: draws.normal([(0, row, i) for row in (0, 1)], (3, 16, 16))  # noqa: E731
    grid, x_T = TimeGrid.make(plain.schedule, 4), plain.fresh_noise(2).x_T
    walk = SOLVERS[solver](by_hand, x_T, grid, **({"noise": noise} if solver == "ddpm" else {}))
    torch.testing.assert_close(guided, last(walk)[0].float(), atol=1e-5, rtol=0)
    free = plain.sample(2, solver=solver, steps=4)
    assert not torch.allclose(guided, free, atol=1e-3)
    assert torch.equal(plain.sample(2, classifier=judge, solver=solver, steps=4), free)


def test_both_guidances_and_their_interval(guidable, judge, count):
    options = {"classes": [0, 2], "solver": "ddim", "steps": 5, "spacing": "uniform"}
    guidance = {"guidance_scale": 2.0, "guidance_rescale": 0.5, "classifier": judge, "classifier_scale": 3.0}
    seen, judged = count(guidable), count(judge)
    some = guidable.sample(2, **options, **guidance, guidance_interval=(250, 749))  # 749 and 500 and 250
    assert seen == {"calls": 5, "images": 10 + 6}
    assert judged == {"calls": 3, "images": 6}
    told = Condition(classes=torch.tensor([0, 2]))
    free = Extrapolate(guidable.denoiser, Condition(), told, 2.0, rescale=0.5, interval=(250, 749))
    both = Clip(ClassifierGuidance(free, judge.log_prob(told.classes), 3.0, interval=(250, 749)))
    grid = TimeGrid.make(guidable.schedule, 5, spacing="uniform")
    expected, _ = last(SOLVERS["ddim"](both, guidable.fresh_noise(2).x_T, grid))
    torch.testing.assert_close(some, expected.float(), atol=1e-3, rtol=0)


def test_a_guided_image_does_not_depend_on_its_batch(guidable, judge):
    options = {"solver": "ddpm", "steps": 6, "guidance_scale": 2.0, "classifier": judge, "classifier_scale": 2.0}
    options |= {"classifier_form": "mean", "seed": 4}
    together = guidable.sample(3, classes=[0, 1, 2], **options)
    torch.testing.assert_close(
        guidable.sample(3, classes=[0, 1, 2], batch_size=2, **options), together, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_many_samples_can_be_made_in_parts(plain, solver):
    options = {"solver": solver, "steps": 4, "seed": 9}
    whole = plain.sample(3, **options)
    parts = [plain.sample(1, **options), plain.sample(2, first=1, **options)]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=0)
    assert torch.equal(plain.fresh_noise(2, seed=9, first=1).x_T, plain.fresh_noise(3, seed=9).x_T[1:])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"guidance_interval": (900, 300)}, "900 comes after 300"),
        ({"guidance_scale": 2.0}, "class_dropout"),
        ({"classifier_scale": 2.0}, "without a classifier"),
        ({"solver": "euler"}, "unipc"),
        ({"eta": 0.5}, "ddim"),
        ({"eta": 1.5, "solver": "ddim"}, "eta"),
        ({"guidance_rescale": 1.5}, "guidance_rescale"),
        ({"x_T": torch.zeros(2, 3, 8, 8)}, "x_T"),
        ({"classes": [0, 1, 2]}, "classes"),
    ],
)
def test_settings_that_cannot_be(settings, told):
    model = awake(DiffusionModel, replace(GUIDABLE, class_dropout=0.0))
    with pytest.raises(ZsemError, match=told):
        model.sample(2, **{"classes": 0, **settings})


def test_guidance_that_cannot_be(plain, guidable, judge):
    with pytest.raises(ZsemError, match="no classes"):
        plain.sample(1, guidance_scale=2.0)
    with pytest.raises(ZsemError, match="guidance_scale must be a finite number, not nan"):
        guidable.sample(1, classes=0, guidance_scale=float("nan"))
    with pytest.raises(ZsemError, match="mean form"):
        plain.sample(1, classes=0, classifier=judge, classifier_scale=1, classifier_form="mean")
    with pytest.raises(ZsemError, match="classes"):
        plain.sample(1, classifier=judge, classifier_scale=1)
    with pytest.raises(ZsemError, match="classes"):
        plain.sample(1, classes=3, classifier=judge, classifier_scale=1)
    with pytest.raises(ZsemError, match="unconditional"):
        plain.sample(1, classes=0)
    for other, told in ((replace(JUDGE, image_size=32), "3 x 32 x 32"), (replace(JUDGE, num_outputs=4), "4 classes")):
        with pytest.raises(ZsemError, match=told):
            guidable.sample(1, classes=0, classifier=awake(NoisyClassifier, other), classifier_scale=1)
    named = awake(DiffusionModel, replace(GUIDABLE, class_names=("cat", "dog", "owl")))
    other = awake(NoisyClassifier, replace(JUDGE, class_names=("cat", "owl", "dog")))
    assert named.sample(1, classes=0, steps=1, classifier=judge, classifier_scale=1).shape == (1, 3, 16, 16)
    with pytest.raises(ZsemError, match="'dog' is 'owl' to the classifier"):
        named.sample(1, classes=0, classifier=other, classifier_scale=1)
    for share in (1.0, -0.1):
        with pytest.raises(ZsemError, match="class_dropout"):
            DiffusionModel(replace(GUIDABLE, class_dropout=share))


def test_models_from_before_class_dropout_are_read(guidable, tmp_path):
    folder = guidable.save(tmp_path / "model")
    assert DiffusionModel.from_pretrained(folder).config.class_dropout == 0.1
    about = json.loads((folder / "config.json").read_text())
    del about["config"]["class_dropout"]
    (folder / "config.json").write_text(json.dumps(about))
    assert DiffusionModel.from_pretrained(folder).config.class_dropout == 0.0


def test_log_prob_of_a_classifier(judge):
    x_t, t = torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([0.0, 400.0, 900.0])
    wanted = torch.tensor([2, 0, 2])
    with torch.no_grad():
        ours = judge.log_prob(wanted)(x_t, t)
        torch.testing.assert_close(-ours, F.cross_entropy(judge(x_t.float(), t), wanted, reduction="none"))
        cosine = NoiseSchedule(NoiseSchedule.Config(kind="cosine"))
        of_its_own = judge.schedule.timestep_at(cosine.u(t))
        assert float((of_its_own - t)[1:].abs().min()) > 100
        torch.testing.assert_close(judge.log_prob(wanted, cosine)(x_t, t), judge.log_prob(wanted)(x_t, of_its_own))
        assert torch.equal(judge.log_prob(wanted, NoiseSchedule())(x_t, t), ours)
    for unknown in (3, -1):
        with pytest.raises(ZsemError, match=r"0\.\.2"):
            judge.log_prob(torch.tensor([0, unknown]))


def test_progress_towards_a_sample(guidable, judge):
    options = {"classes": [0, 2, 1], "solver": "ddim", "steps": 5, "seed": 3, "guidance_scale": 2.0}
    options |= {"classifier": judge, "classifier_scale": 1.0}
    guidable.train()
    try:
        seen = []
        for x0 in guidable.progressive(3, batch_size=2, **options):
            assert guidable.training and torch.is_grad_enabled()  # the caller's own code runs undisturbed
            seen.append(x0)
    finally:
        guidable.eval()
    assert [x0.shape for x0 in seen] == [(3, 3, 16, 16)] * 5
    torch.testing.assert_close(seen[-1], guidable.sample(3, batch_size=2, **options), atol=1e-6, rtol=0)
    assert not torch.allclose(seen[0], seen[-1], atol=1e-2)
    with pytest.raises(TypeError, match="colour"):
        next(guidable.progressive(3, colour="red"))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc"])
def test_a_walk_may_end_above_the_least_noise(plain, solver):
    settings = {"seed": 1, "solver": solver, "steps": 6}
    made = plain.sample(2, cleanest=100, **settings)
    *_, predicted = plain.progressive(2, cleanest=100, **settings)
    assert (made - predicted).abs().max() < 1e-5  # what is expected at the last level is the image
    assert (made - plain.sample(2, **settings)).abs().max() > 1e-2
    with pytest.raises(ZsemError, match="cleanest is a timestep"):
        plain.sample(2, cleanest=-1)
    with pytest.raises(ZsemError, match="steps must lie between 1 and 10"):
        plain.sample(2, cleanest=990)


def test_eta_adds_fresh_noise(plain):
    options = {"solver": "ddim", "steps": 5, "spacing": "uniform"}
    still, some, much = (plain.sample(2, eta=eta, **options) for eta in (0, 0.5, 1))
    assert not torch.allclose(still, some, atol=1e-2)
    torch.testing.assert_close(much, plain.sample(2, solver="ddpm", steps=5, spacing="uniform"), atol=1e-4, rtol=0)


def test_a_way_from_sample_to_sample(plain):
    a, b = plain.fresh_noise(2, seed=1).x_T.split(1)
    ends = plain.sample(2, seed=1, solver="ddim", steps=5)
    way = plain.sample(5, x_T=slerp(a, b, torch.linspace(0, 1, 5)), solver="ddim", steps=5)
    torch.testing.assert_close(way[[0, -1]], ends, atol=1e-4, rtol=0)
    gaps = (way[1:] - way[:-1]).flatten(1).norm(dim=1)
    assert float(gaps.max()) < 0.8 * float((ends[0] - ends[1]).norm())


TOY = replace(PLAIN, schedule=NoiseSchedule.Config(timesteps=12, beta_start=0.01, beta_end=0.4))


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_images_that_are_padded_inside(judge):
    """17 x 15 pixels for networks that halve: they see 18 x 16, callers and the classifier never do."""
    model = awake(DiffusionModel, replace(TOY, image_size=(17, 15)))
    x_T = model.fresh_noise(2).x_T
    assert x_T.shape == (2, 3, 18, 16)
    # networks that see 32 pixels, a classifier that knows 16
    odd = awake(DiffusionModel, replace(TOY, unet=replace(SMALL, channel_mult=(1, 1, 1, 1, 1, 1))))
    options = {"solver": "ddim", "steps": 4, "classes": [0, 1], "classifier": judge}
    made, plain = (odd.sample(2, classifier_scale=scale, **options) for scale in (30.0, 0.0))
    assert odd.noise_shape == (3, 32, 32)
    assert made.shape == (2, 3, 16, 16)
    assert not torch.allclose(made, plain, atol=1e-3)
    assert [x0.shape for x0 in odd.progressive(2, solver="ddim", steps=2)] == [made.shape] * 2
    assert model.sample(2, solver="ddpm", steps=3, x_T=x_T).shape == (2, 3, 17, 15)
    with pytest.raises(ZsemError, match="pads"):
        model.bits_per_dim(torch.zeros(1, 3, 17, 15, dtype=torch.uint8))


@pytest.mark.parametrize("learned", [False, True])
def test_bits_per_dim_is_the_bound_of_the_whole_training_schedule(pictures, count, learned):
    model = awake(DiffusionModel, replace(TOY, learned_range=learned))
    seen, said = count(model), []
    bits = model.bits_per_dim(pictures, seed=7, batch_size=2, progress=lambda done, total: said.append((done, total)))
    assert (seen["calls"], said) == (24, [(2, 3), (3, 3)])
    grid = TimeGrid.make(model.schedule, 12, spacing="uniform")
    assert grid.t.tolist() == [*range(11, -1, -1), 0]
    noise = lambda i: draws.normal([(7, row, i) for row in range(3)], (3, 16, 16))  # noqa: E731
    denoise, x0 = Clip(bind(model.denoiser, Condition())), pictures.float() / 127.5 - 1
    wanted = bits_per_dim(denoise, x0, grid, noise=noise, variance="learned" if learned else "small")
    torch.testing.assert_close(bits.total, wanted.total, rtol=1e-5, atol=0)
    assert float(bits.total.min()) > 8  # of noise, by a model of nothing
    free = model.bits_per_dim(pictures, seed=7, clip=False)
    assert float(free.total.mean()) > float(bits.total.mean())


def test_fewer_terms_estimate_the_bound(guidable, pictures):
    classes = [0, 1, 2]
    whole = guidable.bits_per_dim(pictures[:1].expand(16, -1, -1, -1), classes=0, terms=40)
    assert whole.total.shape == (16,)
    some = guidable.bits_per_dim(pictures[:1].expand(16, -1, -1, -1), classes=0, terms=5, seed=1)
    error = some.total.std() / 4
    assert abs(float(some.total.mean() - whole.total.mean())) < 4 * float(error)
    again = guidable.bits_per_dim(pictures, classes=classes, terms=5, batch_size=2)
    torch.testing.assert_close(
        guidable.bits_per_dim(pictures, classes=classes, terms=5).total, again.total, rtol=1e-4, atol=0
    )


def test_what_has_no_bits(guidable, pictures):
    with pytest.raises(ZsemError, match="8-bit"):
        guidable.bits_per_dim(pictures / 127.5 - 1, classes=0)
    with pytest.raises(ZsemError, match="classes"):
        guidable.bits_per_dim(pictures)
    for terms in (1, 1001):
        with pytest.raises(ZsemError, match="terms"):
            guidable.bits_per_dim(pictures, classes=0, terms=terms)
