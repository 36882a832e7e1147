"""What many tests need: small real images and a small real model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from zsem.cli import main
from zsem.data.images import ImageSet
from zsem.models.autoencoder import DiffusionAutoencoder
from zsem.models.denoising import AutoencoderObjective
from zsem.models.diffusion import DiffusionModel
from zsem.nets.encoder import SemanticEncoder
from zsem.nets.unet import UNet
from zsem.training.loop import Loop
from zsem.training.presets import Preset
from zsem.values import draws

# The networks here are so small that a second thread only waits, and on a busy machine waits for long.
torch.set_num_threads(1)

# The same examples every time, and no verdict on how long one took: machines are busy.
settings.register_profile("zsem", deadline=None, derandomize=True)
settings.load_profile("zsem")

SMALL = DiffusionAutoencoder.Config(
    image_size=16,
    image_channels=3,
    z_dim=8,
    unet=UNet.Config(channels=16, channel_mult=(1, 2), attention_resolutions=(8,), embed_channels=32),
    encoder=SemanticEncoder.Config(channels=8, channel_mult=(1, 2), attention_resolutions=(), num_res_blocks=1),
)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty coloured discs on plain grounds, 16 px, in one folder."""
    folder = tmp_path_factory.mktemp("discs")
    for i in range(40):
        Image.fromarray(draw_disc(i)[0]).save(folder / f"{i:02d}.png")
    return folder


def draw_disc(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Disc number i, uint8 [16, 16, 3], and its colour, [3]."""
    rows, columns = np.mgrid[:16, :16]
    rng = draws.generator(7, i)
    ground, colour = rng.integers(0, 256, (2, 3))
    y, x, radius = rng.uniform(3, 13, 3)
    disc = ((rows - y) ** 2 + (columns - x) ** 2 < radius**2)[..., None]
    return np.where(disc, colour, ground).astype(np.uint8), colour


@pytest.fixture(scope="session")
def labelled_discs() -> ImageSet:
    """Six hundred discs that know whether they are red (some do not) and how red, the last hundred held out."""
    number, held_out = 600, 100
    pictures, colours = zip(*(draw_disc(i) for i in range(number)), strict=True)
    redness = np.array([colour[0] for colour in colours], dtype=np.float32)
    red = (redness > 127).astype(np.float32)
    red[::10] = np.nan
    return ImageSet(
        pixels=torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(),
        paths=[f"{i:03d}.png" for i in range(number)],
        class_names=[],
        classes=torch.full((number,), -1),
        attributes={"redness": redness, "red": red},
        splits=["train"] * (number - held_out) + ["val"] * held_out,
        sha256=[""] * number,
        source="discs",
    )


@pytest.fixture(scope="session")
def small_model() -> DiffusionAutoencoder:
    """A small autoencoder that answers something at every layer (zero-initialised ones would hide mistakes)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DiffusionAutoencoder(SMALL)
        for parameter in model.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return model.eval()


@pytest.fixture(scope="session")
def random_diffusion() -> Callable[..., DiffusionModel]:
    """Makes small diffusion models that answer something at every layer, from their size, a seed and U-Net options."""

    def make(image_size: int, *, seed: int = 3, **options: Any) -> DiffusionModel:
        few = {"channels": 16, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": ()}
        net = UNet.Config(**{**few, "embed_channels": 32, **options})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = DiffusionModel(DiffusionModel.Config(image_size=image_size, unet=net))
            for parameter in model.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.1)
        return model.eval()

    return make


class FaceApi:
    """The two face networks of @vladmandic/face-api in their own file format, with weights that tests make up."""

    detector = "tiny_face_detector_model"
    landmarks = "face_landmark_68_model"

    @staticmethod
    def shapes() -> dict[str, dict[str, list[int]]]:
        """Names and shapes as the manifests of version 1.7.15 have them."""

        def separable(name: str, before: int, after: int) -> dict[str, list[int]]:
            filters = {
                "depthwise_filter": [3, 3, before, 1],
                "pointwise_filter": [1, 1, before, after],
                "bias": [after],
            }
            return {f"{name}/{part}": shape for part, shape in filters.items()}

        detector = {"conv0/filters": [3, 3, 3, 16], "conv0/bias": [16]}
        for i in range(1, 6):
            detector |= separable(f"conv{i}", 2 ** (i + 3), 2 ** (i + 4))
        detector |= {"conv8/filters": [1, 1, 512, 25], "conv8/bias": [25]}
        landmarks = {"dense0/conv0/filters": [3, 3, 3, 32], "dense0/conv0/bias": [32]}
        for block in range(4):
            width = 32 * 2**block
            for conv in range(4):
                if block or conv:
                    landmarks |= separable(f"dense{block}/conv{conv}", width if conv else width // 2, width)
        landmarks |= {"fc/weights": [256, 136], "fc/bias": [136]}
        return {FaceApi.detector: detector, FaceApi.landmarks: landmarks}

    @staticmethod
    def write(folder: Path, name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write manifest and quantised weights; gives the values that the files stand for."""
        folder.mkdir(exist_ok=True)
        entries, data, values = [], b"", {}
        for key, tensor in tensors.items():
            least = float(tensor.min())
            scale = (float(tensor.max()) - least) / 255 or 1.0
            numbers = np.rint((tensor - least) / scale).astype(np.uint8)
            quantization = {"dtype": "uint8", "scale": scale, "min": least}
            shape = list(tensor.shape)
            entries.append({"name": key, "shape": shape, "dtype": "float32", "quantization": quantization})
            data += numbers.tobytes()
            values[key] = numbers * scale + least
        manifest = [{"weights": entries, "paths": [f"{name}.bin"]}]
        (folder / f"{name}-weights_manifest.json").write_text(json.dumps(manifest))
        (folder / f"{name}.bin").write_bytes(data)
        return values

    @staticmethod
    def bright_spots(folder: Path, points: np.ndarray) -> Path:
        """Networks made by hand: whatever is nearly white has a box of 6 x 7 cells, and in it these 68 points."""
        zeros = {name: {k: np.zeros(v) for k, v in part.items()} for name, part in FaceApi.shapes().items()}
        detector, landmarks = zeros[FaceApi.detector], zeros[FaceApi.landmarks]
        detector["conv0/filters"][1, 1, :, 0] = (
            1  # white: (255 - mean) / 255, summed over colours, is 1.71; grey is less
        )
        for i in range(1, 6):
            detector[f"conv{i}/depthwise_filter"][1, 1, 0] = 1
            detector[f"conv{i}/pointwise_filter"][0, 0, 0, 0] = 1
        detector["conv8/filters"][0, 0, 0, 9] = 100
        detector["conv8/bias"][[4, 9, 14, 19, 24]] = -150
        landmarks["fc/bias"][:] = points.ravel()
        for name, tensors in zeros.items():
            FaceApi.write(folder, name, tensors)
        return folder


@pytest.fixture(scope="session")
def face_api() -> type[FaceApi]:
    return FaceApi


@pytest.fixture(scope="session")
def quick_preset() -> Preset:
    """Networks of the least size that learn the discs of `image_folder` in a second or two."""
    return Preset(
        model=DiffusionAutoencoder.Config(
            image_size=16,
            z_dim=8,
            unet=UNet.Config(
                channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), embed_channels=32, patch=4
            ),
            encoder=SemanticEncoder.Config(
                channels=16, channel_mult=(1,), attention_resolutions=(), num_res_blocks=1, patch=4, pool=2
            ),
        ),
        objective=AutoencoderObjective.Config(),
        training=Loop.Config(batch_size=32, warmup=10, learning_rate=5e-3, log_every=10, precision="fp32"),
    )


@pytest.fixture
def zsem(capsys):
    """Call the command line; gives exit code, stdout and stderr."""

    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call
