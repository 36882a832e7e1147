"""The end of a training whose loss or gradient is not a number any more."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path

from zsem.training import checkpoint
from zsem.values.errors import ZsemError
from zsem.values.files import write_whole

NAMED = 5  # files that the error names; the rest is in a file


def not_finite(run: Path, iteration: int, loss: float, norm: float, paths: list[str], *, write: bool) -> ZsemError:
    """The error for an iteration whose step would spoil the weights: what happened, with which images, what is left.

    iteration: counted from 1. loss, norm: of the batch, and of its gradient. paths: files of the batch.
    write: put all of it into not_finite.json as well.
    """
    report = run / "not_finite.json"
    about = {"iteration": iteration, "loss": repr(loss), "gradient_norm": repr(norm), "paths": paths}
    if write:
        with suppress(ZsemError, OSError):  # a full disk must not hide what happened
            run.mkdir(parents=True, exist_ok=True)
            write_whole(report, (json.dumps(about, indent=2) + "\n").encode())
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
    more = f" and {len(paths) - NAMED} more (all in {report})" if len(paths) > NAMED else ""
    kept = checkpoint.complete(run / "checkpoints")
    good = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
    mend = f"begin anew with --init {run}" if kept else "begin anew"
    return ZsemError(
        f"training stopped because {what} in iteration {iteration}, with the images {', '.join(paths[:NAMED])}{more}; "
        f"{good}: look at these images, or {mend} and a lower --training.learning-rate"
    )
