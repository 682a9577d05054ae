"""Runs a command that never outlives the process that asked for it.

    python -IS supervise.py PARENT GRACE_S [--rm FOLDER] COMMAND...

The parent holds the other end of this process's stdin. When the pipe is closed, because the parent closes it or ends,
the command gets SIGTERM and, after GRACE_S seconds, SIGKILL. If the parent writes a byte before it closes the pipe, the
parent removes FOLDER itself. If there is no byte, the parent is dead, and this process removes FOLDER.

PR_SET_PDEATHSIG in the parent would not do: that signal follows the parent's *thread*, and it needs code between fork
and exec in a process with many threads.

Runs as a script under `python -IS`: it may import nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading


def die_with_parent() -> None:
    """Lets the kernel kill the command when this process is killed. This process has one thread when it forks."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def parent_gone(parent: int) -> list[int]:
    """Descriptors: one of them becomes readable when the parent closes the pipe or ends.

    A process that the parent forks inherits the parent's end of the pipe and may outlive the parent. So there is a
    pidfd as well, where the kernel has one.
    """
    if sys.platform != "linux":
        return [0]
    try:
        return [0, os.pidfd_open(parent)]
    except ProcessLookupError:
        return []
    except OSError:
        return [0]


def main(parent: int, grace_s: float, scratch: str, command: list[str]) -> int:
    """Runs the command and returns its exit code."""
    descriptors = parent_gone(parent)
    linux = sys.platform == "linux"
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent if linux else None)  # noqa: S603, PLW1509
    died = threading.Event()

    def stop() -> None:
        ready = select.select(descriptors, [], [])[0] if descriptors else []
        if 0 not in ready or not os.read(0, 1):
            died.set()
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=stop, daemon=True).start()
    code = process.wait()
    if scratch and died.is_set():
        shutil.rmtree(scratch, ignore_errors=True)
    return code


if __name__ == "__main__":
    parent, grace_s, *command = sys.argv[1:]
    scratch = ""
    if command[0] == "--rm":
        _, scratch, *command = command
    sys.exit(main(int(parent), float(grace_s), scratch, command))
