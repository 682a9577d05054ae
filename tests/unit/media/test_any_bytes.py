"""Image files made of good ones by damage: the promises that `make fuzz` holds for an hour."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings

from tests.fuzz.mutations import PNG, mutated, png_mended
from tests.fuzz.promises import pictures
from tests.fuzz.seeds import SEEDS

FILES = list(SEEDS["pictures"]())


@pytest.mark.parametrize("file", FILES, ids=range(len(FILES)))
def test_good_files_keep_the_promises(file: bytes) -> None:
    pictures(file)


@settings(max_examples=200)
@given(mutated(FILES))
def test_damaged_files_keep_the_promises(file: bytes) -> None:
    pictures(file)


# Found by the fuzzer: a frame of 63,777 x 75,489 pixels, for which opening the file took eight gigabytes.
FRAME_OF_GIGABYTES = b"GIF89a\t\0\7\0\0\0\0!\xf9\4\x48\0\0\0\0,\0\0\0\0\x21\xf9\xe1\xff\0\2\2\x44\1\0;"
WITHIN_A_GIGABYTE = """
import resource, sys
from moderation.errors import PostError
from moderation.media.decoding import decode, decoded_bytes
from moderation.settings import MediaSettings
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
file = bytes.fromhex(sys.argv[1])
assert decoded_bytes(file, MediaSettings()) == 0
try:
    list(decode(file, MediaSettings()))
except PostError as error:
    print(error.problem.reason, error.problem.detail)
"""


def test_a_frame_of_gigabytes_takes_no_memory() -> None:
    command = [sys.executable, "-c", WITHIN_A_GIGABYTE, FRAME_OF_GIGABYTES.hex()]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    assert said == "IMAGE_TOO_LARGE None\n"


def test_checksums_are_mended() -> None:
    file = next(file for file in FILES if file.startswith(PNG))
    assert png_mended(file) == file
    broken = file[:29] + bytes(4) + file[33:]
    assert png_mended(broken) == file
