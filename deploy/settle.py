"""For deploy/Dockerfile: compiles what was installed, and gives every file the same date, so that two builds are alike.

The bytecode names its source by hash and is not held to it at run time: files of an image do not change.
"""

import compileall
import os
import sys
from pathlib import Path
from py_compile import PycInvalidationMode


def main(folder: Path, date: int) -> None:
    """Some libraries ship files that are no Python of any version (templates): those stay as they are."""
    mode = PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, maxlevels=100, quiet=2, workers=0, invalidation_mode=mode)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (date, date), follow_symlinks=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["SOURCE_DATE_EPOCH"]))
