"""The verbs that begin everything: `load` a model, `train` one, fit a prior to its codes."""

from zsem.api.averaging import choose_average
from zsem.api.loading import import_models, load
from zsem.api.priors import fit_prior, load_prior
from zsem.api.training import estimate, train

__all__ = ["choose_average", "estimate", "fit_prior", "import_models", "load", "load_prior", "train"]
