"""The program of a decoder that misbehaves where a file's last bytes ask for it: `bad(word)` is such a file.

Each of these was seen in decoders of images, or may be done by one that a file has taken over.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image as pil

from moderation.media import decoder_process, decoding
from moderation.media.decoder_process import Server
from moderation.types import Image

if TYPE_CHECKING:
    from moderation.settings import MediaSettings

PROGRAM = "tests.support.misbehaving_decoder"
MARK = b"misbehave:"
SHOWN = "what the picture shows"

kept: list[bytes] = []


def bad(word: str) -> Image:
    """An image with one good picture, behind which the decoder misbehaves."""
    from tests.support.builders import a_file  # not in the decoder, which starts often

    return Image(data=a_file() + MARK + word.encode())


def once(path: Path) -> Image:
    """An image whose decoder is killed from outside, at the first attempt."""
    return bad(f"once:{path}")


def _crash() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def _panic() -> None:
    raise BaseException(SHOWN)  # noqa: TRY002


def _say(server: Server, line: bytes) -> Callable[[], None]:
    return lambda: server._channel.sendall(line)


def _misbehave(word: str, server: Server) -> None:
    if word.startswith("once:"):
        try:
            Path(word.removeprefix("once:")).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
    deeds: dict[str, Callable[[], object]] = {
        "hang": lambda: time.sleep(3600),
        "spin": _spin,
        "crash": _crash,
        "exit": lambda: os._exit(0),
        "panic": _panic,
        "bomb": lambda: kept.append(bytes(1 << 31)),
        "leak": lambda: kept.append(bytes(90 << 20)),
        "no json": _say(server, b"{]\n"),
        "no line": _say(server, b"x" * (1 << 20)),
        "no object": _say(server, b"[]\n"),
        "no reason": _say(server, b'{"ended": {"reason": "SECRET"}, "spent": [0, 0], "kept": 0}\n'),
        "rows outside": _say(server, b'{"rows": [64, 48, 40, 9]}\n'),
        "rows too long": _say(server, b'{"rows": [20000, 1000, 0, 1000]}\n'),
        "no rows": _say(server, b'{"rows": [64, 48, 0, 0]}\n'),
        "too many pixels": _say(server, b'{"rows": [20000, 20000, 0, 1]}\n'),
        "a negative size": _say(server, b'{"rows": [-64, -48, 0, 1]}\n'),
        "more than announced": _say(server, b'{"rows": [300, 300, 0, 300]}\n'),
        "too many pictures": _say(server, 1_000 * b'{"rows": [1, 1, 0, 1]}\n'),
        "too deep": _say(server, b"[" * 60_000 + b"\n"),
    }
    deeds[word]()


def _spin() -> None:
    while True:
        pass


def _word(file: bytes) -> str:
    return file.rpartition(MARK)[2].decode() if MARK in file else ""


def main() -> None:
    """As decoder_process.main, with these deeds."""
    decode, decoded_bytes = decoding.decode, decoding.decoded_bytes
    servers: list[Server] = []

    class Watched(Server):
        def serve(self) -> None:
            servers.append(self)
            super().serve()

    def decode_badly(file: bytes, settings: MediaSettings, *arguments: Any) -> Iterator[pil.Image]:
        look(file)
        yield from decode(file, settings, *arguments)
        word = _word(file)
        if word == "larger":
            yield from [pil.new("RGB", (64, 48))] * 100
        elif word and not word.startswith("header:"):
            _misbehave(word, servers[0])

    def look_badly(file: bytes, settings: MediaSettings) -> int:
        look(file)
        return decoded_bytes(file, settings)

    def look(file: bytes) -> None:
        if (word := _word(file)).startswith("header:"):
            _misbehave(word.removeprefix("header:"), servers[0])

    decoding.decode, decoding.decoded_bytes = decode_badly, look_badly  # type: ignore[assignment]
    decoder_process.Server = Watched  # type: ignore[misc]
    decoder_process.main()


if __name__ == "__main__":
    main()
