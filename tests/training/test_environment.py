"""What a run folder says of the machine and the code."""

import json
import platform
import subprocess

import pytest
import torch

from zsem import api
from zsem.training.environment import commit, note


def git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_a_checkout_and_of_none(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert commit(package) is None
    git(tmp_path, "init", "-q")
    assert commit(package) is None  # somebody else's repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(package) == head
    (package / "__init__.py").write_text("changed = True")
    assert commit(package) == f"{head}-dirty"


def test_a_missing_git_is_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path) is None


@pytest.mark.parametrize("before", ["", "{", "[]", '{"sessions": [{"a": 1}]}'])
def test_sessions_are_added_up_and_a_damaged_record_is_begun_anew(tmp_path, before):
    path = tmp_path / "environment.json"
    path.write_text(before)
    note(path, {"b": 2})
    kept = [{"a": 1}] if "sessions" in before else []
    assert json.loads(path.read_text()) == {"sessions": [*kept, {"b": 2}]}


def test_every_start_of_a_training_is_noted(image_folder, quick_preset, tmp_path):
    out = tmp_path / "run"
    api.train(image_folder, out, preset=quick_preset, iterations=2, say=lambda _: None)
    api.train(image_folder, out, iterations=3, resume=True, say=lambda _: None)
    first, second = json.loads((out / "environment.json").read_text())["sessions"]
    assert (first["from_iteration"], second["from_iteration"]) == (0, 2)
    assert (first["iterations"], second["iterations"], second["minutes"]) == (2, 3, None)
    assert first["torch"] == torch.__version__
    assert first["python"] == platform.python_version()
    assert first["threads"] == torch.get_num_threads()
    assert first["precision"] == "fp32"
    assert first["device"] == "cpu"
    assert first["processor"]
