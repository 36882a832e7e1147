"""What a training is made of, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import GenericAlias
from typing import Any, Generic, TypeVar

from zsem.training.families import FAMILIES, kind_of
from zsem.training.loop import Loop

ModelConfig = TypeVar("ModelConfig")
ObjectiveConfig = TypeVar("ObjectiveConfig")


@dataclass(frozen=True, kw_only=True)
class Preset(Generic[ModelConfig, ObjectiveConfig]):
    """All that a training is made of, but the images and the time."""

    model: ModelConfig
    """the networks"""
    objective: ObjectiveConfig
    """the loss"""
    training: Loop.Config = field(default_factory=Loop.Config)
    """the loop"""
    recommended_images: int = 500_000
    """images to go through for a good model, repeats counted; --estimate tells how long that takes"""

    @property
    def kind(self) -> str:
        """The kind of the model."""
        return kind_of(self.model)


def preset_type(kind: str) -> Any:
    """The class of presets for models of a kind, with the types of its two configurations."""
    return GenericAlias(Preset, FAMILIES[kind].configs)
