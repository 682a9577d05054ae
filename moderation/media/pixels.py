"""The pixels of a picture where Pillow keeps them: copying them once is all that it costs to hand a picture over.

Pillow shows its memory by the Arrow interface (https://arrow.apache.org/docs/format/CDataInterface.html). `tobytes`
copies it three times.
"""

from __future__ import annotations

import ctypes
import mmap

from PIL import Image as pil

PIXEL_BYTES = 4  # as Pillow stores RGB


class _Array(ctypes.Structure):
    """The beginning of a struct ArrowArray."""


_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def copy_pixels(picture: pil.Image, memory: mmap.mmap, begin: int) -> None:
    """Copies the pixels of an RGB picture to `memory`, from `begin` on: PIXEL_BYTES for each, the last one unused.

    Raises ValueError if they do not fit, or do not lie together: those of a small picture do.
    """
    size = picture.width * picture.height * PIXEL_BYTES
    if begin + size > len(memory) or picture.mode != "RGB":
        raise ValueError("the pixels do not fit")
    _, capsule = picture.__arrow_c_array__()
    array = _Array.from_address(_pointer(capsule, b"arrow_array"))
    pixels = array.children[0].contents
    if array.offset or pixels.offset or pixels.length != size:
        raise ValueError("the pixels do not lie together")
    ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(memory, begin)), pixels.buffers[1], size)
