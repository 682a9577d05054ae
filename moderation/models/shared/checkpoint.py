"""A published checkpoint on disk: find it, read its JSON, load its safetensors into a module, take its digest.

Nothing here runs code from a checkpoint: no pickle, no remote modules. Anything wrong with the folder raises a
ConfigError that names the file or the tensors and says what to do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.overrides import TorchFunctionMode

from moderation.errors import ConfigError
from moderation.observability import logs

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
WANTED = ("*.json", "*.safetensors", "README.md")  # the files that are fetched of a hub id
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})  # dtypes that can be cast without a scale
NAMED = 4  # tensors that an error names before it counts the rest

Json = TypeVar("Json", bound=BaseModel)


def model_type(name: str, revision: str | None) -> str:
    """`model_type` of the config.json of a folder or hub id. Fetches only this file of a hub id."""
    folder, _ = locate(name, revision, (CONFIG,))
    kind = read_json(folder / CONFIG).get("model_type")
    if not isinstance(kind, str):
        raise ConfigError(f"{folder / CONFIG}: model_type is missing, so this is not a published checkpoint's config")
    return kind


def has_one_of(name: str, revision: str | None, files: Sequence[str]) -> bool:
    """Whether a folder or hub id has one of the files. Fetches only these of a hub id."""
    folder, _ = locate(name, revision, files)
    return any((folder / file).exists() for file in files)


def locate(name: str, revision: str | None, wanted: Sequence[str] = WANTED) -> tuple[Path, str]:
    """The folder of a checkpoint and its commit ("": a plain folder). Fetches a hub id that is not cached.

    name: a folder or a hub id. wanted: patterns of the files to fetch.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, ""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ConfigError(
            f"{name}: there is no such folder, and it is not a hub id (owner/name); a model behind a server is written "
            "openai:MODEL, decisions:MODEL or systemone:MODEL"
        )
    return fetch(name, revision, wanted)


def fetch(name: str, revision: str | None, wanted: Sequence[str] = WANTED) -> tuple[Path, str]:
    """The folder of a hub id in the hub's cache, and its commit. Fetches what is not cached."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a folder needs no hub
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    logs.adopt("huggingface_hub")
    at = f"{name} at {revision}" if revision else name
    try:
        fetched = Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted)))
    except GatedRepoError:
        raise ConfigError(f"{at}: the hub wants a login: accept the model's terms there and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ConfigError(f"{at}: the hub has no such revision") from None
    except RepositoryNotFoundError:
        raise ConfigError(f"{at}: there is no such folder, and the hub has no such model") from None
    except (OSError, ValueError) as error:  # no network, no cache, an id that the hub's client refuses
        raise ConfigError(
            f"{at}: not in the local cache and not fetched ({type(error).__name__}); where the hub cannot be "
            "reached, fetch the model elsewhere and name its folder instead. To try the service, MODERATION_MODEL=demo "
            "(or `--model demo`) is a small model that comes with it"
        ) from None
    return fetched, fetched.name


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"{path.parent}: {path.name} is missing; copy it from where the checkpoint was published"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as JSON ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds a JSON {type(value).__name__} where an object is expected")
    return value


def parse(path: Path, kind: type[Json]) -> Json:
    """The JSON file as `kind`; the error names file and key."""
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'as a whole'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError(f"{path}: " + "; ".join(faults)) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted by name: those that its index names, or the only one."""
    if not (folder / INDEX).exists():
        if (folder / WEIGHTS).exists():
            return [folder / WEIGHTS]
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})
        only = f", only pickled weights, which can run code and are not read ({_some(pickled)})" if pickled else ""
        raise ConfigError(
            f"{folder}: holds neither {WEIGHTS} nor {INDEX}{only}; take a revision with safetensors, or convert it"
        )
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ConfigError(f"{folder / INDEX}: weight_map is missing or empty; fetch it again")
    names = {str(name) for name in index.values()}
    if odd := sorted(name for name in names if Path(name).name != name):
        raise ConfigError(f"{folder / INDEX}: weight_map points outside the folder: {_some(odd)}")
    if missing := sorted(name for name in names if not (folder / name).exists()):
        raise ConfigError(f"{folder}: {INDEX} names files that are not there: {_some(missing)}; fetch them again")
    return [folder / name for name in sorted(names)]


def header(path: Path) -> list[tuple[str, tuple[int, ...], str]]:
    """(name, shape, safetensors' name of the dtype) of the tensors in a file, sorted; nothing else is read."""
    try:
        with safe_open(path, framework="pt") as file:
            parts = [(name, file.get_slice(name)) for name in sorted(file.keys())]
            return [(name, tuple(part.get_shape()), str(part.get_dtype())) for name, part in parts]
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None


@contextmanager
def meta_modules() -> Iterator[None]:
    """Modules created inside have shapes and names, but no memory until `load_weights` gives it to them.

    Initial values are skipped, too. On the meta device torch would compute them through its compiler, which takes
    seconds to import.
    """
    with torch.device("meta"), _NoInitialValues():
        yield


class _NoInitialValues(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def load_weights(
    module: nn.Module,
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    unused: Callable[[str], bool],
    published: Callable[[str], str] = str,
) -> None:
    """Loads a module that was built in `meta_modules`: exactly the tensors of its state dict, cast to `dtype`.

    Every tensor is copied out of its file, so a checkpoint that is replaced on disk does not change a running model.
    unused: names of tensors that the files may hold and the module lacks; these are not read. published: the name in
    the files of a tensor of the module. Raises ConfigError for any other tensor that is missing, unexpected, of another
    shape or quantised.
    """
    names = {published(name): name for name in module.state_dict()}
    expected = {published(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    places: dict[str, Path] = {}
    problems: list[str] = []
    for path in weight_files(folder):
        problems += _survey(path, expected, unused, places)
    if missing := sorted(expected.keys() - places.keys()):
        problems.insert(0, f"{len(missing)} missing: {_some(missing)}")
    if problems:
        raise ConfigError(
            f"{folder}: the tensors are not those of this architecture: {'; '.join(problems)}; check that config.json "
            "and the safetensors files come from the same revision"
        )
    try:
        tensors = {names[file_name]: tensor for file_name, tensor in _tensors(places, dtype, device)}
        module.load_state_dict(tensors, strict=True, assign=True)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"{folder}: the weights do not fit on {device} as {dtype}; free the device, or use a smaller dtype"
        ) from None
    module.requires_grad_(False).eval()


def digest(files: Iterable[Path], settings: Mapping[str, object]) -> str:
    """sha256 hex over the bytes of the files, their names without folders, and the settings that change a score."""
    ordered = sorted(files, key=lambda path: path.name)
    with ThreadPoolExecutor(max_workers=4) as threads:  # hashing lets go of the interpreter's lock
        lines = [f"{path.name} {sum_}" for path, sum_ in zip(ordered, threads.map(_sha256, ordered), strict=True)]
    lines += [f"{name}={value}" for name, value in sorted(settings.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def expect(files: Sequence[Path], wanted: str) -> None:
    """Raises ConfigError unless the files have the wanted digest, which `moderation model info` prints. "": any."""
    if wanted and (actual := digest(files, {})) != wanted:
        raise ConfigError(
            f"MODERATION_MODEL__DIGEST: the files in {files[0].parent} have the digest {actual}, and are refused. "
            "Check them with `moderation model info`; set this digest if they are the files that you want"
        )


def _survey(
    path: Path, expected: Mapping[str, tuple[int, ...]], unused: Callable[[str], bool], places: dict[str, Path]
) -> list[str]:
    """Adds the expected tensors of a file to `places`, and returns what is wrong with the others."""
    unexpected: list[str] = []
    misshapen: list[str] = []
    foreign: list[str] = []
    for name, shape, kind in header(path):
        if name not in expected:
            if not unused(name):
                unexpected.append(name)
            continue
        places[name] = path
        if shape != expected[name]:
            misshapen.append(f"{name} is {list(shape)}, not {list(expected[name])}")
        if kind not in FLOATS:
            foreign.append(f"{name} is {kind}")
    kinds = {"unexpected": unexpected, "of another shape": misshapen, "quantised, which is not read": foreign}
    return [f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names]


def _tensors(
    places: Mapping[str, Path], dtype: torch.dtype, device: torch.device
) -> Iterable[tuple[str, torch.Tensor]]:
    for path in sorted(set(places.values())):
        with safe_open(path, framework="pt") as file:
            for name in (name for name, place in places.items() if place == path):
                yield name, file.get_tensor(name).to(device=device, dtype=dtype, copy=True)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: {path.name} is missing") from None


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
