"""CLIP (2103.00020) by path: images and text as vectors that point the same way where one describes the other.

Networks and tokenizer are those of transformers; nothing is downloaded.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from zsem.values.errors import ZsemError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours of CLIP's training images, on the [0, 1] scale; the published models all take them."""


class CLIP(nn.Module):
    """Unit vectors of images and of text, by a CLIPModel and a CLIPTokenizer of transformers, in inference.

    size: side of the images that the network sees, pixels.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.size: int = model.config.vision_config.image_size
        for name, rgb in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(rgb)[None, :, None, None], persistent=False)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Vectors of images in [-1, 1], grey or RGB, of any size; differentiable in them.

        As CLIP prepares them: the shorter side resized to `size`, the middle cut out, the colours normalised.
        Raises ZsemError for other numbers of channels.
        """
        if images.shape[1] not in {1, 3}:
            raise ZsemError(
                f"CLIP looks at grey or RGB images, not at {images.shape[1]} channels: choose three of them"
            )
        x = self.prepare(images.to(self.get_buffer("mean")))
        return F.normalize(self.model.visual_projection(self.model.vision_model(pixel_values=x).pooler_output), dim=1)

    def prepare(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 s s"]:
        """Images as the network sees them."""
        height, width = images.shape[2:]
        factor = self.size / min(height, width)
        sides = [max(self.size, int(side * factor)) for side in (height, width)]
        x = F.interpolate(images, size=sides, mode="bicubic", antialias=True, align_corners=False)
        top, left = ((side - self.size) // 2 for side in sides)
        x = x[..., top : top + self.size, left : left + self.size].expand(-1, 3, -1, -1)
        return ((x + 1) / 2 - self.get_buffer("mean")) / self.get_buffer("std")

    def text(self, text: str) -> Float[Tensor, " d"]:
        """The vector of a text. Raises ZsemError where it is longer than the network can read."""
        tokens = self.tokenizer([text], return_tensors="pt")
        number, most = tokens["input_ids"].shape[1], self.model.config.text_config.max_position_embeddings
        if number > most:
            raise ZsemError(f"this text has {number} tokens, and CLIP reads {most} at most: shorten it")
        tokens = {name: tokens[name].to(self.get_buffer("mean").device) for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            found = self.model.text_projection(self.model.text_model(**tokens).pooler_output)
        return F.normalize(found, dim=1)[0]


def load_clip(path: str | Path) -> CLIP:
    """CLIP from a folder as `save_pretrained` of transformers writes it: config.json, weights and tokenizer.

    Raises ZsemError where transformers is not installed, or the folder holds no CLIP model that is whole.
    """
    try:
        from transformers import CLIPModel, CLIPTokenizer
    except ImportError:
        raise ZsemError("CLIP is run by transformers, which is not installed: pip install 'zsem[clip]'") from None
    folder = Path(path)
    about, words = read_json(folder / "config.json"), read_json(folder / "tokenizer.json", folder / "vocab.json")
    # transformers would make a tokenizer of no words out of what is not there
    if not isinstance(about, dict) or about.get("model_type") != "clip" or not words:
        raise ZsemError(
            f"{folder} holds no CLIP model: give a folder with config.json, the weights and the tokenizer, as "
            "transformers saves them"
        )
    try:
        loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ZsemError(f"the CLIP model in {folder} cannot be read ({reason}): copy it again") from None
    model, found = loaded
    if found["missing_keys"]:  # whose weights are random then
        raise ZsemError(f"the CLIP model in {folder} lacks {sorted(found['missing_keys'])[0]}: copy it again")
    return CLIP(model, tokenizer)


def read_json(*paths: Path) -> Any:
    """The content of the first of the files that exists; None where none does, or it is no JSON."""
    try:
        return json.loads(next(path for path in paths if path.exists()).read_text("utf-8"))
    except (StopIteration, OSError, ValueError):
        return None
