"""One fuzzing process, which tests/fuzz/__main__.py starts: `python -m tests.fuzz.target NAME [options] [folders]`.

The options are libFuzzer's.
"""

from __future__ import annotations

import sys

import atheris

NAME = sys.argv[1]
with atheris.instrument_imports(include=["moderation", "PIL", "json", "yaml", "base64", "urllib.parse"]):
    from PIL import Image as pil

    from tests.fuzz.mutations import png_mended
    from tests.fuzz.promises import PROMISES

    pil.init()  # imports Pillow's readers, which it would import later


def mutated(data: bytes, most: int, seed: int) -> bytes:
    """libFuzzer's own mutation; of a PNG, the checksums fit again: a decoder would refuse almost all others."""
    changed = atheris.Mutate(data, most)
    return png_mended(changed)[:most] if seed % 4 else changed


if __name__ == "__main__":
    options = {"custom_mutator": mutated} if NAME == "pictures" else {}
    atheris.Setup([sys.argv[0], *sys.argv[2:]], PROMISES[NAME], **options)
    atheris.Fuzz()
