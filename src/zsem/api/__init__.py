"""The verbs that begin everything: `load` a model, `train` one."""

from zsem.api.averaging import choose_average
from zsem.api.loading import import_models, load
from zsem.api.training import estimate, train

__all__ = ["choose_average", "estimate", "import_models", "load", "train"]
