"""The tokenizer files that CodeGen's slow tokenizer writes, as one definition: Phi-2's checkpoints have these alone.

vocab.json and merges.txt hold a byte-level BPE. tokenizer_config.json holds the added tokens: the end of a text, and
runs of spaces and tabs, which are words like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint
from moderation.models.shared.tokenizer import TOKENIZER, Tokenizer

VOCABULARY, MERGES = "vocab.json", "merges.txt"
CONFIG, ADDED = "tokenizer_config.json", "added_tokens.json"
DECODER, END = "added_tokens_decoder", "<|endoftext|>"


def files(folder: Path) -> list[Path]:
    """The files that decide the ids: tokenizer.json where the slow tokenizer's files are missing."""
    if not (folder / VOCABULARY).exists() and (folder / TOKENIZER).exists():
        return [folder / TOKENIZER]
    return [
        folder / VOCABULARY,
        folder / MERGES,
        *(folder / name for name in (CONFIG, ADDED) if (folder / name).exists()),
    ]


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the folder. Raises ConfigError naming the file that is wrong."""
    _check_config(folder)
    if files(folder) == [folder / TOKENIZER]:
        return Tokenizer(folder)
    vocabulary = _vocabulary(folder / VOCABULARY)
    added = _added(folder, vocabulary)
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": _merges(folder / MERGES, vocabulary),
        },
    }
    made = Tokenizer(folder, definition, name=VOCABULARY)
    for token in added:  # the engine gives ids of its own where the numbers have a gap
        if (id := made.token(str(token["content"]))) != token["id"]:
            raise ConfigError(
                f"{folder}: the added token {token['content']!r} has id {token['id']}, and {VOCABULARY} leaves {id} "
                "for it; they are not of one checkpoint"
            )
    return made


def _check_config(folder: Path) -> None:
    read = checkpoint.read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    for key in ("add_bos_token", "add_prefix_space"):
        if read.get(key, False) is not False:
            raise ConfigError(
                f"{folder / CONFIG}: {key} is {read[key]!r}; only false is supported: no published checkpoint puts "
                "anything in front of a text"
            )


def _vocabulary(path: Path) -> dict[str, int]:
    read = checkpoint.read_json(path)
    if letters := sorted(set(ByteLevel.alphabet()) - read.keys()):
        raise ConfigError(f"{path}: {len(letters)} of the 256 bytes have no token ({letters[0]!r}); fetch it again")
    vocabulary = {token: id for token, id in read.items() if type(id) is int and id >= 0}
    if len(vocabulary) < len(read) or len(set(vocabulary.values())) < len(read):
        raise ConfigError(f"{path}: not every token has an id of its own; fetch it again")
    return vocabulary


def _merges(path: Path, vocabulary: Mapping[str, int]) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise ConfigError(
            f"{path.parent}: {path.name} is missing; copy it from where the checkpoint was published"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as text ({error}); fetch it again") from None
    merges = [line.split(" ") for line in lines[1:] if line]  # the first line is the version
    for number, pair in enumerate(merges, 2):
        if len(pair) != 2 or not vocabulary.keys() >= {*pair, "".join(pair)}:
            raise ConfigError(
                f"{path}: line {number} merges no two tokens of {VOCABULARY} into a third; fetch both again"
            )
    return merges


def _added(folder: Path, vocabulary: Mapping[str, int]) -> list[dict[str, object]]:
    """The added tokens in the order of their ids. added_tokens.json is what older versions wrote, without flags."""
    word = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    decoder = checkpoint.read_json(folder / CONFIG).get(DECODER) if (folder / CONFIG).exists() else None
    path = folder / (ADDED if decoder is None else CONFIG)
    try:
        if decoder is None:
            ids = {**checkpoint.read_json(path), END: vocabulary.get(END)}
            listed = [{**word, "special": name == END, "content": name, "id": int(id)} for name, id in ids.items()]  # type: ignore[call-overload]
        else:
            listed = [{**word, **token, "id": int(id)} for id, token in decoder.items()]  # type: ignore[attr-defined]
        tokens = [{name: token[name] for name in ("id", "content", *word)} for token in listed]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: the added tokens are not readable; fetch it again") from None
    for token in tokens:
        token["normalized"] = token["normalized"] and not token["special"]
    return sorted(tokens, key=lambda token: int(token["id"]))
