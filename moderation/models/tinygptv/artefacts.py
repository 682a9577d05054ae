"""The downloads that TinyGPT-V consists of, read without running anything that is in them.

Three are torch files: torch.load reads them with weights_only=True, which builds tensors and plain values and refuses
all else. The fourth is the folder of a Phi-2. Tensors stay in their files until they are used.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint, codegen
from moderation.models.shared.tokenizer import TOKENIZER

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that still lies in its file."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


State = tuple[int, ...]  # of a file: device, inode, size, and the time of its last change


@dataclass(frozen=True, slots=True)
class Artefact:
    """One download. option: the one that names it, for errors.

    files: what its digests are of, each as it was before the first byte was read.
    """

    option: str
    path: Path
    tensors: Mapping[str, Stored]
    files: Mapping[Path, State]
    config: Mapping[str, object] = field(default_factory=dict)  # the run's, where a trainer has saved it
    tokenizer: tuple[Path, ...] = ()  # its files, where there is one
    mapped: tuple[_TorchFile, ...] = ()

    def __str__(self) -> str:
        return f"{self.option} {self.path}"

    def check_unchanged(self) -> None:
        """Raises ConfigError when a file is not the one any more that was opened: its digest may be of another."""
        for path, before in self.files.items():
            if _state(path) != before:
                raise ConfigError(
                    f"{path}: was changed or replaced while it was read, so its SHA-256 may not be that of what was "
                    "read. Run the command again when nothing writes to this file"
                )

    def release(self) -> None:
        """Gives back the memory of what was read. What is read later is mapped again."""
        for file in self.mapped:
            file.release()


class _TorchFile:
    """The dict in a torch file, mapped while it is in use: read pages count as memory of the process until then."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content: Mapping[str, object] | None = None

    def content(self) -> Mapping[str, object]:
        """All of it. Raises ConfigError."""
        if self._content is None:
            self._content = _loaded(self.path)
        return self._content

    def tensors(self) -> Mapping[str, object]:
        """Its "model" where it has one, else itself. Raises ConfigError."""
        content = self.content()
        inner = content.get("model", content)
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{self.path}: its 'model' is a {type(inner).__name__}, not a dict of tensors")
        return inner

    def read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """One tensor, of this shape and dtype. Raises ConfigError."""
        tensor = self.tensors().get(name)
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"{self.path}: {name} is gone; the file was replaced while it was read")
        return _same(self.path, name, tensor.detach(), shape, dtype)

    def release(self) -> None:
        """Unmaps the file."""
        self._content = None


def torch_file(option: str, path: Path) -> Artefact:
    """The tensors of a torch file: of its "model" where it has one, else of itself. Raises ConfigError."""
    files = {path: _state(path)}
    file = _TorchFile(path)
    run = file.content().get("config")
    model = run.get("model") if isinstance(run, Mapping) else None
    config = {str(key): value for key, value in model.items()} if isinstance(model, Mapping) else {}
    return Artefact(option, path, _stored(file), files, config, mapped=(file,))


def phi_folder(option: str, folder: Path) -> Artefact:
    """The tensors of a Phi-2 folder, from safetensors or from .bin files, in one file or in shards.

    Raises ConfigError, also for a Phi-2 in a layout that TinyGPT-V was not trained on.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; {option} names the folder of a Phi-2")
    tensors: dict[str, Stored] = {}
    weights = _weight_files(folder)
    tokenizer = _tokenizer_files(folder)
    files = {path: _state(path) for path in (folder / checkpoint.CONFIG, *tokenizer, *weights)}
    mapped = {path: _TorchFile(path) for path in weights if path.suffix == ".bin"}
    for path in weights:
        part = _stored(mapped[path]) if path in mapped else dict(_safetensors(path))
        if twice := sorted(tensors.keys() & part.keys()):
            raise ConfigError(f"{path}: {twice[0]} is in another file of {folder}, too; fetch the folder again")
        tensors |= part
    if not any(name.endswith(".self_attn.query_key_value.weight") for name in tensors):
        has = "q_proj, k_proj and v_proj" if any(".self_attn.q_proj." in name for name in tensors) else "other names"
        raise ConfigError(
            f"{folder}: this Phi-2 has no query_key_value (it has {has}). TinyGPT-V was trained on an earlier "
            "revision, in which query, key and value are one matrix; the original code takes a later one without an "
            "error and then answers nonsense. Take the phi-2 folder that TinyGPT-V was published with"
        )
    return Artefact(option, folder, tensors, files, tokenizer=tuple(tokenizer), mapped=tuple(mapped.values()))


def _tokenizer_files(folder: Path) -> list[Path]:
    """tokenizer.json; the slow tokenizer's files where there is none."""
    whole = folder / TOKENIZER
    return [whole] if whole.exists() else codegen.files(folder)


def sha256(path: Path) -> str:
    """Of the file, hex. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _state(path: Path) -> State:
    """() where there is no such file: what reads it says so."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _weight_files(folder: Path) -> list[Path]:
    """As checkpoint.weight_files, and .bin files where there are no safetensors."""
    if (folder / checkpoint.INDEX).exists() or (folder / checkpoint.WEIGHTS).exists():
        return checkpoint.weight_files(folder)
    if (folder / PICKLED_INDEX).exists():
        return _indexed(folder)
    if (folder / PICKLED).exists():
        return [folder / PICKLED]
    raise ConfigError(
        f"{folder}: holds no weights: none of {checkpoint.WEIGHTS}, {checkpoint.INDEX}, {PICKLED}, {PICKLED_INDEX}"
    )


def _indexed(folder: Path) -> list[Path]:
    """The .bin files that their index names."""
    path = folder / PICKLED_INDEX
    index = checkpoint.read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ConfigError(f"{path}: weight_map is missing or empty; fetch it again")
    names = sorted({str(name) for name in index.values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ConfigError(f"{path}: names the file {name}, which is not in {folder}; fetch it again")
    return [folder / name for name in names]


def _loaded(path: Path) -> Mapping[str, object]:
    """The dict in a torch file. Its tensors are mapped, not read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"{refused[1]}, which loading would run as code" if refused else "more than tensors and plain values"
        raise ConfigError(
            f"{path}: refused, and nothing in it was run: it holds {what}. Take the file from where the model was "
            "published, and compare its size and SHA-256"
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged file can raise anything
        raise ConfigError(
            f"{path}: not a whole file of torch.save in its zip format ({type(error).__name__}); fetch it again"
        ) from None
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, not a dict of tensors")
    return cast(Mapping[str, object], content)


def _stored(file: _TorchFile) -> dict[str, Stored]:
    """The tensors of a file whose dict holds nothing else. Raises ConfigError."""
    stored: dict[str, Stored] = {}
    for name, tensor in file.tensors().items():
        if not isinstance(tensor, Tensor):
            raise ConfigError(
                f"{file.path}: {name} is a {type(tensor).__name__}, not a tensor; this is not the file that was "
                "published"
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ConfigError(f"{file.path}: {name} is sparse, quantised or empty, which no published file is")
        shape, dtype = tuple(tensor.shape), tensor.dtype
        stored[str(name)] = Stored(shape, dtype, partial(file.read, name, shape, dtype))
    return stored


def _safetensors(path: Path) -> Iterator[tuple[str, Stored]]:
    for name, shape, kind in checkpoint.header(path):
        if kind not in checkpoint.FLOATS:
            raise ConfigError(f"{path}: {name} is {kind}, which is not read: take a folder that is not quantised")
        dtype = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
        yield name, Stored(shape, dtype, partial(_read, path, name, shape, dtype))


def _read(path: Path, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            return _same(path, name, file.get_tensor(name), shape, dtype)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: {name} is not readable any more ({error}); run the command again") from None


def _same(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor, if it is as the file's list of tensors said. Raises ConfigError."""
    if (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
        raise ConfigError(
            f"{path}: {name} was {dtype} {list(shape)} and is now {tensor.dtype} {list(tensor.shape)}; the file was "
            "replaced while it was read"
        )
    return tensor
