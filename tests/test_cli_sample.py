"""`zsem sample` on small models with random weights: what is written, which classes, how often networks are asked."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from zsem.cli.sample import chosen_classes
from zsem.data.intensity import full_range
from zsem.data.pixels import from_pil, from_uint8
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.classifier import NoisyClassifier
from zsem.models.diffusion import DiffusionModel
from zsem.models.gan import GenerativeAdversarialNetwork
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.gan import Discriminator
from zsem.nets.unet import HalfUNet, UNet
from zsem.nets.vae import Decoder
from zsem.values.errors import ZsemError

SMALL = UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=32)
PLAIN = DiffusionModel.Config(image_size=16, unet=SMALL)
NAMES = ("cat", "dog", "great auk, extinct")
GUIDABLE = replace(PLAIN, class_dropout=0.1, class_names=NAMES, unet=replace(SMALL, num_classes=3))
JUDGE = NoisyClassifier.Config(
    image_size=16, num_outputs=3, class_names=NAMES,
    net=HalfUNet.Config(channels=16, channel_mult=(1, 2), embed_channels=32),
)  # fmt: skip
GAN = GenerativeAdversarialNetwork.Config(
    image_size=8, z_dim=4, generator=Decoder.Config(channels=8, channel_mult=(1, 2)),
    discriminator=Discriminator.Config(channels=8, channel_mult=(1, 2)),
)  # fmt: skip
FEW = ("--steps", 3, "--json")


def saved(kind, config, folder) -> str:
    """The folder of a model in which no layer is silent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1) if not parameter.any() else parameter.data.mul_(1.3)
    return str(model.save(folder))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        "plain": saved(DiffusionModel, PLAIN, root / "plain"),
        "guidable": saved(DiffusionModel, GUIDABLE, root / "guidable"),
        "judge": saved(NoisyClassifier, JUDGE, root / "judge"),
        "gan": saved(GenerativeAdversarialNetwork, GAN, root / "gan"),
    }


@pytest.fixture
def made(zsem, tmp_path):
    """Run `zsem sample`; gives the figures and the images by their paths below images/."""

    def call(run, *args, out="out"):
        code, text, said = zsem("sample", run, "--out", tmp_path / out, *FEW, *args)
        assert code == 0, said
        folder = tmp_path / out / "images"
        return json.loads(text), {str(p.relative_to(folder)): pixels(p) for p in sorted(folder.rglob("*.*"))}

    return call


def pixels(path) -> torch.Tensor:
    with Image.open(path) as image:
        return from_pil(image.convert("RGB")).int()


def cell(path, row, column, side=16, scale=4) -> torch.Tensor:
    """One picture of a sheet without captions, in its own size."""
    top, left = (2 + i * (side * scale + 2) for i in (row, column))
    return pixels(path)[:, top : top + side * scale : scale, left : left + side * scale : scale]


def test_images_and_a_picture_of_the_first(runs, made, tmp_path):
    figures, images = made(runs["plain"], "-n", 9, "--batch-size", 4)
    assert list(images) == [f"{i:06d}.png" for i in range(9)]
    assert figures["n"] == 9
    assert figures["nfe"] == 3
    assert figures["images_per_second"] == pytest.approx(9 / figures["seconds"])
    assert "classes" not in figures
    model = DiffusionModel.from_pretrained(runs["plain"])
    expected = model.sample(9, steps=3)
    for image, wanted in zip(images.values(), expected, strict=True):
        assert (from_uint8(image.to(torch.uint8)) - wanted.clamp(-1, 1)).abs().max() < 0.01
    assert torch.equal(cell(tmp_path / "out" / "sample.png", 1, 0), images["000008.png"])


@pytest.mark.parametrize("solver", ["unipc", "ddpm"])
def test_an_image_does_not_depend_on_how_many_are_made(runs, made, solver):
    options = ("--solver", solver, "--seed", 3)
    _, many = made(runs["guidable"], "-n", 8, "--batch-size", 3, *options)
    _, few = made(runs["guidable"], "--number", 5, "--batch-size", 5, *options, out="few")
    assert len(few) == 5
    for name, image in few.items():
        assert (image - many[name]).abs().max() <= 1  # grey levels
    _, other = made(runs["guidable"], "-n", 1, "--solver", solver, "--seed", 4, out="other")
    assert (other["cat/000000.png"] - few["cat/000000.png"]).abs().max() > 10


def test_classes_are_made_in_turn_in_folders_of_their_names(runs, made, tmp_path):
    figures, images = made(runs["guidable"], "-n", 5)
    assert figures["classes"] == list(NAMES)
    assert sorted(images) == sorted(
        ["cat/000000.png", "dog/000001.png", f"{NAMES[2]}/000002.png", "cat/000003.png", "dog/000004.png"]
    )
    figures, images = made(runs["guidable"], "-n", 3, "--classes", "dog, 0", out="two")
    assert list(images) == ["cat/000001.png", "dog/000000.png", "dog/000002.png"]
    model = DiffusionModel.from_pretrained(runs["guidable"])
    expected = model.sample(3, classes=[1, 0, 1], steps=3)
    assert (from_uint8(images["cat/000001.png"].to(torch.uint8)) - expected[1].clamp(-1, 1)).abs().max() < 0.01
    with Image.open(tmp_path / "two" / "sample.png") as sheet:
        assert sheet.height == 2 + 2 * 66  # a row for each class, its name to the left
        assert sheet.width > 2 + 2 * 66


def test_names_before_indices_and_names_with_commas():
    assert chosen_classes("great auk, extinct", 3, NAMES).indices == (2,)
    assert chosen_classes("1,0", 2, ("1", "0")).indices == (0, 1)
    assert chosen_classes("2", 3, ()).names == ("2",)
    assert chosen_classes(None, 2, ()).indices == (0, 1)


@pytest.mark.parametrize(
    ("text", "names", "told"),
    [
        ("cat,dgo", NAMES, "no class 'dgo' among 3; did you mean dog"),
        ("CAT", NAMES, "did you mean cat"),
        ("xyz", NAMES, "there are cat, dog, great auk"),
        ("3", NAMES, "no class '3' among 3"),
        ("", NAMES, "no class ''"),
        ("cat", (), r"no class 'cat': --classes takes indices 0\.\.2"),
    ],
)
def test_classes_that_do_not_exist(text, names, told):
    with pytest.raises(ZsemError, match=told):
        chosen_classes(text, 3, names)


@pytest.mark.parametrize(
    ("args", "nfe", "judged"),
    [
        (("--solver", "heun"), 6, None),
        (("--guidance-scale", 3, "--guidance-rescale", 0.5), 6, None),
        (("--guidance-scale", 3, "--spacing", "uniform", "--guidance-interval", 300, 999), 5, None),
        (("--classifier", "judge"), 3, 3),
        (("--classifier", "judge", "--classifier-scale", 0), 3, 0),
        (("--classifier", "judge", "--classifier-scale", 2, "--classifier-form", "mean", "--solver", "ddpm"), 3, 3),
    ],
)
def test_how_often_the_networks_are_asked(runs, made, args, nfe, judged):
    figures, _ = made(runs["guidable"], "-n", 2, *(runs.get(arg, arg) for arg in args))
    assert figures["nfe"] == nfe
    assert figures.get("nfe_classifier") == judged


def test_guidance_changes_the_images_as_in_python(runs, made):
    args = ("-n", 1, "--classes", "dog", "--guidance-scale", 4, "--solver", "ddim", "--eta", 0.5, "--no-clip")
    _, images = made(runs["guidable"], *args, "--classifier", runs["judge"], "--classifier-scale", 5)
    model, judge = (
        kind.from_pretrained(runs[n]) for kind, n in ((DiffusionModel, "guidable"), (NoisyClassifier, "judge"))
    )
    options = {"classes": 1, "steps": 3, "solver": "ddim", "eta": 0.5, "clip": False}
    plain = model.sample(1, **options)
    guided = model.sample(1, guidance_scale=4, classifier=judge, classifier_scale=5, **options)
    found = from_uint8(images["dog/000000.png"].to(torch.uint8))
    assert (found - guided[0].clamp(-1, 1)).abs().max() < 0.01
    assert (found - plain[0].clamp(-1, 1)).abs().max() > 0.05


def test_a_classifier_names_what_an_unconditional_model_makes(runs, made):
    figures, images = made(runs["plain"], "-n", 3, "--classifier", runs["judge"])
    assert figures["classes"] == list(NAMES)
    assert "dog/000001.png" in images
    figures, images = made(runs["plain"], "-n", 3, "--classifier", runs["judge"], "--classifier-scale", 0, out="free")
    assert "classes" not in figures
    assert list(images) == ["000000.png", "000001.png", "000002.png"]


def test_progressive_ends_at_the_sample(runs, made, tmp_path):
    _, images = made(runs["guidable"], "-n", 2, "--progressive", "--steps", 5)
    with Image.open(tmp_path / "out" / "progressive.png") as sheet:
        assert sheet.size == (2 + 5 * 66, 2 + 2 * 66)
    ends = [cell(tmp_path / "out" / "progressive.png", row, 4) for row in (0, 1)]
    for end, image in zip(ends, (images["cat/000000.png"], images["dog/000001.png"]), strict=True):
        assert (end - image).abs().max() <= 1
    assert (cell(tmp_path / "out" / "progressive.png", 0, 0) - images["cat/000000.png"]).abs().max() > 10


def test_many_steps_are_thinned_out_evenly(runs, made, tmp_path):
    made(runs["plain"], "-n", 1, "--progressive", "--steps", 50, "--solver", "ddim")
    with Image.open(tmp_path / "out" / "progressive.png") as sheet:
        assert sheet.width == 2 + 32 * 66
    *_, last = DiffusionModel.from_pretrained(runs["plain"]).progressive(1, steps=50, solver="ddim")
    end = from_uint8(cell(tmp_path / "out" / "progressive.png", 0, 31).to(torch.uint8))
    assert (end - last[0].clamp(-1, 1)).abs().max() < 0.01


def test_slerp_leads_from_sample_to_sample(runs, made, tmp_path):
    _, images = made(runs["plain"], "-n", 2, "--slerp", 4)
    strip = tmp_path / "out" / "slerp.png"
    with Image.open(strip) as sheet:
        assert sheet.size == (2 + 4 * 66, 2 + 4 * 66)  # four pairs
    assert (cell(strip, 0, 0) - images["000000.png"]).abs().max() <= 1
    assert (cell(strip, 0, 3) - images["000001.png"]).abs().max() <= 1
    assert (cell(strip, 0, 1) - images["000000.png"]).abs().max() > 5
    made(runs["guidable"], "-n", 3, "--slerp", 2, out="classes")
    _, images = made(runs["guidable"], "-n", 3, "--classes", "cat,dog", "--slerp", 2, out="two")
    assert (cell(tmp_path / "two" / "slerp.png", 0, 0) - images["cat/000000.png"]).abs().max() <= 1
    assert (cell(tmp_path / "two" / "slerp.png", 1, 0) - images["cat/000002.png"]).abs().max() <= 1


def test_models_that_are_no_diffusion_models(runs, zsem, tmp_path):
    options = ("-n", 3, "--seed", 2, "--batch-size", 2, "--json")
    code, text, _ = zsem("sample", runs["gan"], "--out", tmp_path / "a", *options)
    assert code == 0
    assert json.loads(text)["nfe"] == 1
    expected = GenerativeAdversarialNetwork.from_pretrained(runs["gan"]).sample(3, seed=2).clamp(-1, 1)
    assert (expected[0] - expected[2]).abs().max() > 0.1
    for i, wanted in enumerate(expected):
        found = from_uint8(pixels(tmp_path / "a" / "images" / f"{i:06d}.png").to(torch.uint8))
        assert (found - wanted).abs().max() < 0.01
    for flags, named in (
        (("--steps", 3), "--steps is for diffusion models and autoencoders alone"),
        (("--guidance-scale", 2), "--guidance-scale is for diffusion models alone"),
        (("--classes", "cat"), "--classes is for diffusion models alone"),
        (("--progressive",), "--progressive is for diffusion models alone"),
    ):
        code, _, said = zsem("sample", runs["gan"], "--out", tmp_path / "b", *flags)
        assert (code, named in said, said.count("\n")) == (2, True, 1)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("run", "args", "told"),
    [
        ("plain", ("-n", 0), "--number must be at least 1, not 0"),
        ("plain", ("--batch-size", 0), "--batch-size must be at least 1"),
        ("plain", ("--seed", -1), "--seed must be at least 0"),
        ("plain", ("--slerp", 1), "--slerp must be at least 2"),
        ("plain", ("--slerp", 3, "--solver", "ddpm"), "--slerp needs a solver without fresh noise"),
        ("plain", ("--slerp", 3, "--solver", "ddim", "--eta", 0.5), "--slerp needs a solver without fresh noise"),
        ("plain", ("--classes", "cat"), "unconditional: leave out --classes"),
        ("plain", ("--guidance-scale", 2), "no classes to extrapolate to"),
        ("plain", ("--solver", "euler"), "no solver 'euler'; choose one of"),
        ("plain", ("--eta", 0.5), "is for the solver ddim alone"),
        ("plain", ("--steps", 1001), "1001"),
        ("plain", ("--spacing", "even"), "--spacing"),
        ("plain", ("--classifier-scale", 2), "without a classifier"),
        ("plain", ("--classifier", "plain"), "NoisyClassifier is wanted"),
        ("plain", ("--classifier", "judge", "--classifier-form", "mean"), "mean form"),
        ("guidable", ("--classes", "dgo"), "did you mean dog"),
        ("guidable", ("--guidance-rescale", 2), "guidance_rescale must lie in 0..1"),
        ("guidable", ("--guidance-interval", 3), "--guidance-interval"),
        ("guidable", ("--guidance-interval", 900, 300), "900 comes after 300"),
        ("judge", (), "kind 'classifier', which does not make images out of noise"),
        ("no/such/run", (), "no/such/run"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(runs, zsem, tmp_path, run, args, told):
    args = [runs.get(arg, arg) for arg in args]
    code, out, said = zsem("sample", runs.get(run, run), "--out", tmp_path / "out", *args)
    assert (code, out) == (2, "")
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_autoencoder_without_a_prior_is_no_sampler(zsem, tmp_path):
    encoder = SemanticEncoder.Config(channels=16, channel_mult=(1, 2), attention_resolutions=())
    run = saved(
        DiffusionAutoencoder,
        DiffusionAutoencoder.Config(image_size=16, z_dim=8, unet=SMALL, encoder=encoder),
        tmp_path / "run",
    )
    code, _, said = zsem("sample", run, "--out", tmp_path / "out")
    assert code == 2
    assert f"fit one with `zsem prior {run} DATA`" in said


def test_images_in_the_depth_of_the_model(zsem, tmp_path):
    grey = replace(PLAIN, image_channels=1, intensity=full_range("uint16"))
    run = saved(DiffusionModel, grey, tmp_path / "run")
    assert zsem("sample", run, "--out", tmp_path / "out", "-n", 1, *FEW)[0] == 0
    with Image.open(tmp_path / "out" / "images" / "000000.png") as image:
        assert image.mode.startswith("I")


def test_what_people_read(runs, zsem, tmp_path):
    code, text, _ = zsem("sample", runs["plain"], "--out", tmp_path / "out", "-n", 2, "--steps", 2)
    assert code == 0
    assert "images/s" in text
    assert f"2 images in {tmp_path / 'out' / 'images'}" in text
    code, text, _ = zsem("sample", "--help")
    assert code == 0
    for flag in ("-n", "--classes", "--guidance-interval", "--classifier", "--slerp"):
        assert flag in text
    assert "zsem sample RUN --out DIR" in zsem()[1]
