"""`zsem prior`, and `zsem sample` of an autoencoder: from images to new ones, also with chosen attributes."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from zsem import api
from zsem.data.images import load_images
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.mixture import LatentMixture
from zsem.models.prior import LatentDiffusion
from zsem.models.walking import Walking
from zsem.semantics.attributes import Semantics, learn
from zsem.values.errors import ZsemError

FAST = ("--steps", 2, "--json")
BRIEF = (
    "--kind", "ddim", "--iterations", 6, "--model.net.hidden", 16, "--model.net.layers", 3, "--training.batch-size", 8,
    "--training.log-every", 1, "--training.replicas", 1, "--training.precision", "fp32",
)  # fmt: skip


@pytest.fixture
def run(small_model, tmp_path):
    """The folder of a model; z_mean and z_std are not those of any images."""
    return small_model.save(tmp_path / "run")


@pytest.fixture
def fitted(run, image_folder, zsem):
    """The same with a mixture of its codes."""
    code, out, said = zsem("prior", run, image_folder, "--json")
    assert code == 0, said
    return run, json.loads(out)


def test_a_mixture_of_the_training_codes(fitted, image_folder, zsem, small_model):
    run, figures = fitted
    prior = api.load_prior(run, device="cpu")
    assert isinstance(prior, LatentMixture)
    images = load_images(image_folder, size=16)
    z, held_out = (small_model.encode(part, noise=False).z for part in (images.split("train"), images.held_out()))
    torch.testing.assert_close(prior.z_mean, z.mean(0), atol=1e-5, rtol=1e-5)
    likelihood = float(prior.log_prob(held_out.double()).mean())
    assert figures["held_out"]["log_likelihood"] == pytest.approx(likelihood, abs=1e-3)
    assert figures["held_out"]["n"] == len(held_out)
    assert figures["chosen"]["components"] == prior.config.components
    assert figures["model"] == small_model.stamp
    code, out, said = zsem("prior", run, image_folder)  # again, and for people
    assert code == 0, said
    assert "mixture" in out and "nats" in out and f"`zsem sample {run} -n 64" in out


def test_codes_are_encoded_once(fitted, image_folder, zsem, monkeypatch):
    run, _ = fitted

    def encode(*_, **__):
        raise AssertionError("encoded again")

    monkeypatch.setattr(DiffusionAutoencoder, "encode", encode)
    assert zsem("prior", run, image_folder)[0] == 0
    monkeypatch.undo()
    for file in (run / "codes").iterdir():
        file.write_bytes(file.read_bytes()[:50])
    code, _, said = zsem("prior", run, image_folder)
    assert code == 2 and "delete it" in said


def test_samples_are_decoded_codes_of_the_prior(fitted, zsem, tmp_path, small_model):
    run, _ = fitted
    code, out, said = zsem("sample", run, "-n", 5, "--out", tmp_path / "out", "--seed", 3, "--batch-size", 2, *FAST)
    assert code == 0, said
    assert json.loads(out)["nfe"] == 2
    z = api.load_prior(run, device="cpu").sample(5, seed=3)
    expected = small_model.decode(small_model.codes(z), seed=3, walking=Walking(steps=2))
    for i, image in enumerate(expected.clamp(-1, 1)):
        with Image.open(tmp_path / "out" / "images" / f"{i:06d}.png") as file:
            made = torch.from_numpy(np.asarray(file).copy()).permute(2, 0, 1) / 127.5 - 1
        assert float((made - image).abs().max()) < 0.01
    assert (tmp_path / "out" / "sample.png").exists()


def test_attributes_that_are_asked_for(run, labelled_discs, zsem, tmp_path, small_model):
    """What the probe says of codes that were drawn under a condition is what was asked for."""
    api.fit_prior(run, labelled_discs, say=print)
    training = labelled_discs.split("train")
    z = small_model.encode(training, noise=False).z
    # what z of random weights can tell: whether its first number is large
    labels = {"redness": training.attributes["redness"], "red": (z[:, 0] > z[:, 0].median()).float().numpy()}
    semantics = learn(z, labels, small_model)
    semantics.save(tmp_path / "elsewhere")
    prior = api.load_prior(run, device="cpu")
    for wanted in (0, 1):
        log_p = semantics.log_p({"red": wanted})
        expected = np.abs(1 - wanted - semantics.score(z, "red"))
        np.testing.assert_allclose(log_p(z).exp().numpy(), expected, atol=1e-4)
    shares = [float(semantics.log_p({"red": 1})(prior.sample(200, where=w)).exp().mean())
              for w in (None, semantics.log_p({"red": 1}), semantics.log_p({"red": 0}))]  # fmt: skip
    assert shares[2] < 0.2 < shares[0] < 0.8 < shares[1]
    options = ("--semantics", tmp_path / "elsewhere", "-n", 2, "--out", tmp_path / "out", *FAST)
    code, out, said = zsem("sample", run, "--where", "red=1", *options)
    assert code == 0, said
    assert json.loads(out)["where"] == {"red": 1}
    for where, says in (
        ("rad=1", "did you mean red?"),
        ("smile=1", "choose one of redness, red"),
        ("redness=1", "redness is a real value"),
        ("red=0.5", "give 1 where it must be there"),
        ("red", "write smile=1,glasses=0"),
    ):
        code, _, said = zsem("sample", run, "--where", where, *options)
        assert code == 2 and says in said
    code, _, said = zsem("sample", run, "--where", "red=1", *options[2:])
    assert code == 2 and "learn them with `zsem attributes" in said
    with pytest.raises(ZsemError, match="no attribute is asked for"):
        Semantics.load(tmp_path / "elsewhere", small_model).log_p({})


def test_a_latent_ddim_is_trained_and_gone_on_with(run, image_folder, zsem, tmp_path):
    code, out, said = zsem("prior", run, image_folder, *BRIEF, "--json")
    assert code == 0, said
    figures = json.loads(out)
    assert (figures["kind"], figures["iterations"]) == ("latent_diffusion", 6)
    assert math.isfinite(figures["validation"]["loss"])
    prior = api.load_prior(run, device="cpu")
    assert isinstance(prior, LatentDiffusion)
    assert prior.config.net.hidden == 16
    code, _, said = zsem("prior", run, image_folder, *BRIEF)
    assert code == 2 and "add --resume" in said
    code, _, said = zsem("prior", run, image_folder)
    assert code == 2 and "holds the training of a latent DDIM" in said
    code, out, said = zsem("prior", run, image_folder, "--kind", "ddim", "--resume", "--iterations", 8, "--json")
    assert code == 0, said
    assert json.loads(out)["iterations"] == 8
    assert api.load_prior(run, device="cpu").config.net.hidden == 16
    sample = ("sample", run, "-n", 2, "--out", tmp_path / "out", *FAST)
    assert zsem(*sample, "--prior-solver", "unipc", "--prior-steps", 5)[0] == 0
    code, _, said = zsem("prior", run, image_folder, "--out", tmp_path / "other")
    assert code == 0, said
    assert zsem(*sample, "--prior", tmp_path / "other")[0] == 0
    code, _, said = zsem("train", image_folder, "--out", run / "prior", "--resume", "--iterations", 9)
    assert code == 2 and "zsem prior" in said


def test_what_cannot_be(run, image_folder, zsem, tmp_path, small_model):
    sample = ("sample", run, "-n", 2, "--out", tmp_path / "out")
    for options, says in (
        ((), f"fit one with `zsem prior {run} DATA`"),
        (("--classes", "a"), "--classes is for diffusion models alone"),
        (("--slerp", 3), "--slerp is for diffusion models alone"),
        (("--guidance-scale", 2), "fit one with"),
    ):
        code, _, said = zsem(*sample, *options)
        assert code == 2 and says in said
    for options, says in (
        (("--minutes", 1), "--minutes is for a latent DDIM"),
        (("--resume",), "--resume is for a latent DDIM"),
        (("--kind", "ddim", "--minutes", 1, "--iterations", 1), "not in both"),
        (("--kind", "ddim", "--resume", "--iterations", 1), "holds no training to resume"),
        (("--kind", "ddim", "--preset", "huge"), "choose one of small, paper, paper20"),
        (("--limit", 0), "--limit must be above 0"),
        (("--seed", -1), "--seed must be at least 0"),
    ):
        code, _, said = zsem("prior", run, image_folder, *options)
        assert code == 2 and says in said, said
    code, _, said = zsem("prior", "owner/name", image_folder)
    assert code == 2 and "name one with --out" in said
    LatentDiffusion(LatentDiffusion.Config(z_dim=8)).save(run / "prior")
    code, _, said = zsem("prior", run, image_folder)
    assert code == 2 and "which would be lost" in said
    assert api.load_prior(run, device="cpu").kind == "latent_diffusion"
