"""What a training ran with: versions, processor, device, arithmetic."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zsem.values.files import write_whole


def describe(device: torch.device, *, bf16: bool, processes: int) -> dict[str, Any]:
    """Code, libraries and machine of this process, JSON-able."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "zsem": version("zsem"),
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "bf16" if bf16 else "fp32",
    }


def note(path: Path, session: dict[str, Any]) -> None:
    """Add a session to the list in the file `path`: every start and resume of a training is one."""
    try:
        sessions = json.loads(path.read_text("utf-8"))["sessions"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        sessions = []  # none yet; a damaged record is no reason not to train
    write_whole(path, (json.dumps({"sessions": [*sessions, session]}, indent=2) + "\n").encode())


def commit(folder: Path) -> str | None:
    """The git commit that the code in `folder` is at, "-dirty" after it where files differ; None outside a checkout."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # no git here, or the package lies, untracked, in somebody else's repository
    return git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
