"""A model is a folder: config.json beside model.safetensors. Nothing in it is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from zsem.values.errors import ZsemError
from zsem.values.files import read_tensors, write_whole

FORMAT = "zsem.model"
FORMAT_VERSION = 1
ASSETS = Path(__file__).parent.parent / "assets"
RESTORE = "copy it again from where the folder came from"
KINDS: dict[str, type[Model]] = {}
# modules of this room that are imported when a folder holds a model of their kind
HOMES = {
    "autoencoder": "autoencoder",
    "diffusion": "diffusion",
    "classifier": "classifier",
    "latent_diffusion": "prior",
    "latent_mixture": "mixture",
    "judge": "judge",
    "vae": "vae",
    "gan": "gan",
    "shift": "shift",
}
ModelT = TypeVar("ModelT", bound="Model")


class Model(nn.Module):
    """Base of all models: a frozen `Config`, weights, a history of how they came about, and one folder on disk.

    Subclasses name themselves with `kind` and have a nested dataclass `Config`.
    ABSENT: what a config.json means that was written before a field existed, where that is not the field's default.
    history: what is worth knowing of the training (iterations, images, minutes, data, measures), JSON-able.
    """

    kind: ClassVar[str]
    Config: ClassVar[type]
    ABSENT: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:  # bases of several kinds have none
            KINDS[cls.kind] = cls

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.history: dict[str, Any] = {}
        self._stamp: tuple[tuple[tuple[int, int], ...], str] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def stamp(self) -> str:
        """Sixteen hexadecimal digits that name these weights (of the parameters alone, not of statistics)."""
        versions = tuple((id(parameter), parameter._version) for parameter in self.parameters())
        if self._stamp is None or self._stamp[0] != versions:  # hashing all weights takes a while: once per change
            digest = hashlib.sha256()
            for name, parameter in sorted(self.named_parameters()):
                digest.update(name.encode())
                digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
            self._stamp = versions, digest.hexdigest()[:16]
        return self._stamp[1]

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write config.json and model.safetensors, each whole or not at all; the config last.

        dtype: of the weights in the file, e.g. float16 for half the size; they are float32 again when they are loaded.
        Raises ZsemError where the disk is full; a model that was there before stays readable.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in self.state_dict().items()}
        about = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "kind": self.kind,
            "config": asdict(self.config),
            "history": self.history,
        }
        write_whole(folder / "model.safetensors", safetensors.torch.save(state))
        write_whole(folder / "config.json", (json.dumps(about, indent=2) + "\n").encode())
        return folder

    @classmethod
    def from_pretrained(cls: type[ModelT], name: str | Path, *, device: str | torch.device = "cpu") -> ModelT:
        """Load a model from a folder, or from the Hugging Face hub where `name` is no folder ("owner/name").

        Raises ZsemError for a missing or foreign folder, an unknown format version, damaged or unfitting weights.
        """
        folder = find_model(name)
        about = read_config(folder)
        if about["kind"] in HOMES:
            import_module(f"zsem.models.{HOMES[about['kind']]}")
        kind = KINDS.get(about["kind"])
        if kind is None or not issubclass(kind, cls):
            names = " or ".join(one.__name__ for one in cls.__subclasses__()) or cls.__name__  # a base is no answer
            wanted = f"a {names} is wanted" if kind else "this zsem does not know that kind: install a newer one"
            raise ZsemError(f"{folder} holds a model of kind {about['kind']!r}, and {wanted}")
        try:
            config = TypeAdapter(kind.Config).validate_python({**kind.ABSENT, **about["config"]})
        except ZsemError as error:
            raise ZsemError(f"{folder / 'config.json'}: {error}; restore the file as it was saved") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ZsemError(
                f"{folder / 'config.json'}: {where}: {first['msg']}; restore the file as it was saved"
            ) from None
        model = kind(config)
        model.history = about.get("history", {})
        model.load_state_dict(read_weights(folder / "model.safetensors", model.state_dict()))
        return model.to(device).eval()

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the Hugging Face hub as `name` ("owner/name"); returns the commit's address."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload a zsem model"))


def find_model(name: str | Path) -> Path:
    """The folder of a model: a folder here, one of the models that zsem comes with, or a download from the hub.

    Raises ZsemError where none of them has that name.
    """
    if Path(name).exists():
        return Path(name)
    packaged = ASSETS / str(name)
    return packaged if str(name) in packaged_models() else pull(str(name))


def packaged_models() -> list[str]:
    """Names of the models that zsem comes with."""
    return sorted(path.parent.name for path in ASSETS.glob("*/config.json"))


def pull(name: str) -> Path:
    """Download a model from the Hugging Face hub; returns its folder in the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, allow_patterns=["config.json", "model.safetensors", "prior/*", "semantics/*"])
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        reason = str(error).splitlines()[0]
        own = ", ".join(packaged_models())
        known = f", nor one that zsem comes with ({own})" if own else ""
        raise ZsemError(f"{name} is neither a folder here nor a model that the hub gives ({reason}){known}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a model's config.json, its format and version checked."""
    path = folder / "config.json"
    try:
        about = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ZsemError(f"{folder} is not a model: it has no config.json; train one with `zsem train`") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ZsemError(f"{path} is damaged: it is not JSON; copy it again from where the model came from") from None
    if (
        not isinstance(about, dict)
        or about.get("format") != FORMAT
        or not {"kind", "config", "version"} <= about.keys()
    ):
        raise ZsemError(f"{path} was not written by zsem; foreign checkpoints are read with `zsem import`")
    if about.get("version") != FORMAT_VERSION:
        raise ZsemError(
            f"{folder} has format version {about.get('version')}, this zsem reads version {FORMAT_VERSION}: "
            "install the zsem that wrote it, or a newer one"
        )
    return about


def read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, their names and shapes checked against `expected`."""
    state = read_tensors(path, RESTORE)
    wrong = sorted(expected.keys() ^ state.keys())
    wrong += [name for name in sorted(expected.keys() & state.keys()) if expected[name].shape != state[name].shape]
    if wrong:
        raise ZsemError(f"{path} does not fit the model's configuration: {wrong[0]} and {len(wrong) - 1} more differ")
    return state
