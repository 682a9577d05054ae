"""For deploy/image/Dockerfile: compiles the installed packages and gives every file one date: builds differ less.

Bytecode names its source by hash. Python does not compare the two at run time: files of an image do not change.
"""

import compileall
import os
import sys
from pathlib import Path
from py_compile import PycInvalidationMode


def main(folder: Path, date: int) -> None:
    """Compiles a folder. Files that are not valid Python (templates of libraries) stay as they are."""
    mode = PycInvalidationMode.UNCHECKED_HASH
    compileall.compile_dir(folder, maxlevels=100, quiet=2, workers=0, invalidation_mode=mode)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (date, date), follow_symlinks=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["SOURCE_DATE_EPOCH"]))
