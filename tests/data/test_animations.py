"""Moving pictures, read again."""

import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from zsem.data.animations import save_animation
from zsem.values.errors import ZsemError

FRAMES = torch.randint(0, 256, (4, 3, 6, 9), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def read(path) -> tuple[list[np.ndarray], list[int]]:
    with Image.open(path) as image:
        frames = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
    return [frame for frame, _ in frames], [duration for _, duration in frames]


def test_webp_is_lossless(tmp_path):
    path = save_animation(FRAMES, tmp_path / "new" / "morph.webp", seconds=0.25)
    frames, durations = read(path)
    assert np.array_equal(np.stack(frames), FRAMES.permute(0, 2, 3, 1).numpy())
    assert durations == [250] * 4


def test_gif_has_every_frame_for_its_time(tmp_path):
    path = save_animation(FRAMES // 64 * 64, tmp_path / "morph.gif", seconds=0.2, scale=3)
    frames, durations = read(path)
    assert durations == [200] * 4
    assert np.stack(frames).shape == (4, 18, 27, 3)
    large = (FRAMES // 64 * 64).permute(0, 2, 3, 1).numpy().repeat(3, axis=1).repeat(3, axis=2)
    assert np.abs(np.stack(frames).astype(int) - large).mean() < 4  # 54 colours at most in each


def test_grey_frames(tmp_path):
    frames, _ = read(save_animation(FRAMES[:, :1], tmp_path / "grey.webp"))
    assert np.array_equal(np.stack(frames)[..., 1], FRAMES[:, 0].numpy())


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_mp4(tmp_path):
    flat = FRAMES[:, :, :1, :1].expand(4, 3, 31, 64)  # one colour each, one side odd
    path = save_animation(flat, tmp_path / "morph.mp4", seconds=0.5)
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(4, 30, 64, 3)
    assert np.abs(frames.mean(axis=(1, 2)) - flat[:, :, 0, 0].numpy()).max() < 6


def test_without_ffmpeg_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ZsemError, match=r"ffmpeg, which is not on the PATH: install it, or choose \.gif"):
        save_animation(FRAMES, tmp_path / "morph.mp4")
    assert not list(tmp_path.iterdir())


def test_other_suffixes(tmp_path):
    with pytest.raises(ZsemError, match=r"morph\.avi is of no kind of moving picture: end it in \.gif, \.webp, \.mp4"):
        save_animation(FRAMES, tmp_path / "morph.avi")
