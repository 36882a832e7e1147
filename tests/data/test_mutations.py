"""Damaged files of every format: no crash, no hang, no memory bomb; each is read or named."""

import subprocess
import sys
from pathlib import Path

import pytest

MUTANTS = Path(__file__).with_name("mutants.py")
PER_FILE = 5.0
"""Seconds that one small file may take."""
MEMORY = 600
"""MiB that the decoding of small files may take beyond what is there before."""


def assert_survived(folder: Path, first: int, last: int) -> None:
    command = [sys.executable, str(MUTANTS), str(folder), str(first), str(last)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    lines = result.stdout.splitlines()
    assert result.returncode == 0, f"it ended at {lines[-1:]}: {result.stderr[-3000:]}"
    word, read, named, slowest, memory = lines[-1].split()
    assert word == "done" and int(read) + int(named) == last - first
    assert int(read) > 0.1 * (last - first) and int(named) > 0.1 * (last - first)
    assert float(slowest) < PER_FILE and int(memory) < MEMORY


def test_two_thousand_damaged_files_are_read_or_named(tmp_path):
    assert_survived(tmp_path, 0, 2000)


@pytest.mark.slow
def test_twenty_thousand_more_damaged_files_are_read_or_named(tmp_path):
    assert_survived(tmp_path, 2000, 22000)
