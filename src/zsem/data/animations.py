"""Moving pictures: GIF, WebP and MP4."""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from zsem.data.pixels import to_pil
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

ANIMATIONS = (".gif", ".webp", ".mp4")
QUALITY = 16  # x264's constant rate factor: hardly a difference to be seen


def save_animation(
    frames: UInt8[Tensor, "n c h w"], path: str | Path, *, seconds: float | int = 0.1, scale: int = 1
) -> Path:
    """Write grey or RGB frames as a moving picture, whole or not at all; missing folders are made.

    path: its suffix is the format: .gif (256 colours) or .webp (lossless), which repeat, or .mp4, for which the program
        ffmpeg must be on the PATH; odd sides lose a pixel there, as H.264 wants even ones.
    seconds: that each frame stays. scale: whole-number enlargement, without smoothing.
    Returns the path. ZsemError: another suffix, no ffmpeg, or a file that cannot be written.
    """
    path = Path(path)
    check_animation(path)
    kind = path.suffix.lower()
    height, width = (scale * side for side in frames.shape[-2:])
    pictures = [
        to_pil(frame).convert("RGB").resize((width, height), Image.Resampling.NEAREST) for frame in frames
    ]  # fmt: skip
    data = _mp4(pictures, seconds) if kind == ".mp4" else _with_pillow(pictures, kind, seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    return path


def check_animation(path: str | Path) -> None:
    """Raise the ZsemError of `save_animation` for a file that could not be written in this format or here."""
    kind = Path(path).suffix.lower()
    if kind not in ANIMATIONS:
        raise ZsemError(f"{path} is of no kind of moving picture: end it in {', '.join(ANIMATIONS)}")
    if kind == ".mp4" and shutil.which("ffmpeg") is None:
        raise ZsemError(
            "MP4 files are made by the program ffmpeg, which is not on the PATH: install it, or choose .gif"
        )


def _with_pillow(pictures: Sequence[Image.Image], kind: str, seconds: float | int) -> bytes:
    file = io.BytesIO()
    more = {"lossless": True} if kind == ".webp" else {}
    pictures[0].save(
        file, format=kind[1:], save_all=True, append_images=list(pictures[1:]), duration=round(1000 * seconds), loop=0,
        **more,
    )  # fmt: skip
    return file.getvalue()


def _mp4(pictures: Sequence[Image.Image], seconds: float | int) -> bytes:
    width, height = pictures[0].size
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        command = [
            "ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}",
            "-framerate", f"{1 / seconds:g}", "-i", "-", "-vf", "crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0",
            "-codec:v", "libx264", "-crf", str(QUALITY), "-pix_fmt", "yuv420p", "-movflags", "+faststart", str(out),
        ]  # fmt: skip
        raw = b"".join(picture.tobytes() for picture in pictures)
        done = subprocess.run(command, input=raw, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ZsemError(f"ffmpeg could not write the film ({said[-1] if said else 'it says nothing'}): choose .gif")
        return out.read_bytes()
