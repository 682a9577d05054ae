"""For deploy/Dockerfile: removes what torch ships and this service never opens.

A pattern that matches nothing is an error: torch has changed, and the list with it.
"""

import shutil
import sys
from pathlib import Path

# To build against torch and CUDA, with a compiler that the image does not have.
HEADERS = (
    "torch/include",
    "torch/share/cmake",
    "torch/bin/protoc*",
    "nvidia/*/include",
    "nvidia/*/lib/*.a",
)
# What torch opens on a GPU alone. The libraries that it is linked against must stay: without them it does not load.
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
        found = list(packages.glob(pattern))
        if not found:
            sys.exit(f"{pattern}: nothing like it in {packages}; renew deploy/strip.py")
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
