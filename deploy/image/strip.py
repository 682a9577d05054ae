"""For deploy/image/Dockerfile: removes files of torch that this service never opens.

A pattern without a match is an error: torch has changed, so this list must change too.
"""

import shutil
import sys
from pathlib import Path

# For building against torch and CUDA. The image has no compiler.
HEADERS = (
    "torch/include",
    "torch/share/cmake",
    "torch/bin/protoc*",
    "nvidia/*/include",
    "nvidia/*/lib/*.a",
)
# Files that torch opens only on a GPU. Libraries that torch is linked against must stay: it does not load without them.
GPU = (
    "triton",
    "triton-*.dist-info",
    "torch/lib/libtorch_cuda_linalg.so",
    "nvidia/cudnn/lib/libcudnn_*",
    "nvidia/cu13/lib/libcusolverMg.so.*",
    "nvidia/cu13/lib/libnvrtc*.alt.so.*",
    "nvidia/cu13/lib/libnvperf_*.so",
    "nvidia/cu13/lib/libnvblas.so.*",
    "nvidia/cu13/lib/libcufftw.so.*",
)


def main(venv: Path, device: str) -> None:
    if device not in ("auto", "cpu"):
        sys.exit(f"DEVICE={device}: auto or cpu")
    (packages,) = venv.glob("lib/python3.*/site-packages")
    for pattern in HEADERS + (GPU if device == "cpu" else ()):
        matches = list(packages.glob(pattern))
        if not matches:
            sys.exit(f"{pattern}: no match in {packages}; update deploy/image/strip.py")
        for path in matches:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
