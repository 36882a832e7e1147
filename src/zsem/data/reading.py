"""All images of a source, decoded in parallel and brought to one shape, depth and number of channels."""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Shaped
from PIL import Image
from torch import Tensor

from zsem.data.decoding import colour, decode, from_pillow
from zsem.data.labels import TABLE
from zsem.data.limits import DAMAGE, UnreadableImageError
from zsem.data.members import Content, Member
from zsem.data.shaping import Depth, depth_of, fit, standard, to_channels, to_depth, without_colour
from zsem.values.errors import ZsemError

CHUNK = 4  # images per task: archives keep the bytes of two tasks per thread in memory


@dataclass(frozen=True, kw_only=True)
class Options:
    """How every image shall be; None = as they are.

    size: height and width. channels, depth: see `load_image`. background: colour behind transparent pixels.
    """

    size: tuple[int, int] | None
    channels: int | None
    depth: Depth | None
    background: str


@dataclass(frozen=True, kw_only=True)
class Original:
    """What an image was before anything was cropped, resized or converted; low and high are its extreme values."""

    height: int
    width: int
    channels: int
    depth: Depth
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class File:
    """An image that was read, or the reason why it was not."""

    path: str
    reason: str = ""
    sha256: str = ""
    original: Original | None = None


def read_table_file(member: Member) -> bytes:
    """The bytes of an attribute table. ZsemError: it cannot be read."""
    try:
        data = member.read()
    except (OSError, UnreadableImageError) as error:
        raise ZsemError(f"{member.path} cannot be read: {error}") from None
    assert isinstance(data, bytes)
    return data


def is_table(path: str) -> bool:
    """Whether a path is that of an attribute table."""
    return path.rpartition("/")[2] == TABLE


def read_members(
    members: Iterable[Member],
    tables: dict[str, bytes],
    options: Options,
    progress: Callable[[int, int], None] | None,
    total: int,
) -> Iterator[tuple[File, np.ndarray | None]]:
    """Decode in parallel threads, in the order of `members`: files, and pixels [c, h, w] where they could be read.

    Attribute tables on the way go into `tables`.
    """
    colour(options.background)  # a wrong one is no fault of the images

    def images() -> Iterator[Member]:
        for member in members:
            if is_table(member.path):
                tables[member.path] = read_table_file(member)
            else:
                yield member

    def work(chunk: Sequence[Member]) -> list[tuple[File, np.ndarray | None]]:
        return [_read_one(member, options) for member in chunk]

    workers = os.cpu_count() or 1
    waiting: deque[Future[list[tuple[File, np.ndarray | None]]]] = deque()
    queue = images()
    done = 0
    # Pillow warns of oddities in files without naming them; files that it cannot read are named by us
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        while True:
            chunk = list(itertools.islice(queue, CHUNK))
            if chunk:
                waiting.append(pool.submit(work, chunk))
            if waiting and (not chunk or len(waiting) > 2 * workers):
                finished = waiting.popleft().result()
                done += len(finished)
                yield from finished
                if progress:
                    progress(done, total)
            if not chunk and not waiting:
                return


def _read_one(member: Member, options: Options) -> tuple[File, np.ndarray | None]:
    try:
        content = member.read()
        array = _as_array(content, options.background)
        original = Original(
            height=array.shape[0],
            width=array.shape[1],
            channels=array.shape[2],
            depth=depth_of(array),
            low=float(array.min()),
            high=float(array.max()),
        )
        if options.channels is not None:
            array = to_channels(array, options.channels)
        if options.size is not None:
            array = fit(array, options.size)
        if options.channels is None:
            array = without_colour(array)
        if options.depth is not None:
            array = to_depth(array, options.depth)
    except UnreadableImageError as error:
        return File(path=member.path, reason=str(error)), None
    except OSError as error:
        return File(path=member.path, reason=error.strerror or str(error)), None
    pixels = np.ascontiguousarray(array.transpose(2, 0, 1))
    return File(path=member.path, sha256=_sha256(content, array), original=original), pixels


def _as_array(content: Content, background: str) -> np.ndarray:
    if isinstance(content, bytes):
        return decode(content, background)
    if isinstance(content, np.ndarray):
        return standard(content)
    try:
        return from_pillow(content, colour(background))
    except DAMAGE as error:
        raise UnreadableImageError(f"damaged ({error or type(error).__name__})") from None


def as_picture(content: Content) -> Image.Image:
    """An upright RGB picture of 8 bits, transparent pixels white. UnreadableImageError: damaged, or of another kind."""
    array = to_depth(to_channels(_as_array(content, "white"), 3), "uint8")
    return Image.fromarray(np.ascontiguousarray(array))


def _sha256(content: Content, array: np.ndarray) -> str:
    """The checksum of a file's bytes, or where there is no file, of shape, type and values."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    values = content if isinstance(content, np.ndarray) else array
    return hashlib.sha256(f"{values.dtype.str}{values.shape}".encode() + values.tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all images of a set are brought to."""

    shape: tuple[int, int, int]
    depth: Depth

    def convert(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [c, h, w] of a file that fits: grey is repeated where the set is RGB."""
        return np.broadcast_to(to_depth(pixels, self.depth), self.shape)


def agree(
    files: Sequence[File], shapes: Mapping[str, tuple[tuple[int, ...], Depth]], options: Options, name: str
) -> tuple[Common, list[File], list[str]]:
    """What the images have in common, the files again (those with other channels refused), and notes.

    shapes: shape [c, h, w] and depth of the pixels by path.
    ZsemError: several depths that are not 8 and 16 bits, or several sizes where they are to be kept.
    """
    notes: list[str] = []
    counts = Counter(shape[0] for shape, _ in shapes.values())
    channels = options.channels or (max(counts) if set(counts) <= {1, 3} else counts.most_common(1)[0][0])
    fitting = {path for path, (shape, _) in shapes.items() if shape[0] == channels or (shape[0], channels) == (1, 3)}
    coloured = counts[3]
    if options.channels is None and channels == 3 and coloured < len(fitting) / 2:
        notes.append(
            f"{coloured} of {len(fitting)} images have colours, so all are RGB; ask for 1 channel to have grey"
        )
    depths = {shapes[path][1]: path for path in sorted(fitting, reverse=True)}
    if len(depths) > 1:
        there = ", ".join(f"{depth} ({path})" for depth, path in sorted(depths.items()))
        if set(depths) != {"uint8", "uint16"}:
            raise ZsemError(f"{name} has images of several depths, {there}: convert them to one")
        notes.append(f"{name} has images of 8 and of 16 bits, {there}: all are taken as 16 bits")
    sizes = {shapes[path][0][1:]: path for path in sorted(fitting, reverse=True)}
    if len(sizes) > 1:
        there = ", ".join(f"{height} x {width} ({path})" for (height, width), path in sorted(sizes.items())[:3])
        raise ZsemError(f"{name} has images of several sizes (height x width), {there}: give a size for all of them")
    refused = {
        path: f"an image of {shape[0]} channels, where most have {channels}"
        for path, (shape, _) in shapes.items()
        if path not in fitting
    }
    files = [replace(file, reason=refused[file.path]) if file.path in refused else file for file in files]
    depth: Depth = "uint16" if len(depths) > 1 else shapes[min(fitting)][1]
    height, width = next(iter(sizes))
    return Common(shape=(channels, height, width), depth=depth), files, notes


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What was found in a source, but for the pixels.

    names: the paths of all images and tables there, read or not.
    tables: attribute tables by path.
    files: every image that was asked for, in natural order.
    """

    names: list[str]
    tables: dict[str, bytes]
    files: list[File]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that was read of a source.

    pixels: [n, c, h, w] of the files without a reason.
    mapped: the pixels lie in a file, not in memory.
    """

    contents: Contents
    pixels: Shaped[Tensor, "n c h w"]
    mapped: bool
