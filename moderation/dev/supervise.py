"""Runs a command that never outlives the process that asked for it.

    python -IS supervise.py PARENT GRACE_S [--rm FOLDER] COMMAND...

The parent holds the other end of this process's stdin. When it lets go, by closing it or by dying in whatever way,
the command gets SIGTERM and, after GRACE_S seconds, SIGKILL. A pipe and not PR_SET_PDEATHSIG in the parent, because
that signal follows the parent's *thread*, and needs code between fork and exec of a process with many threads.
A parent that writes a byte before it closes the pipe looks after the rest; one that does not is taken to be dead, and
FOLDER goes with the command.

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


def follow() -> None:
    """This process may be killed too, and then the kernel kills the command. It has one thread when it forks."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def parent_gone(parent: int) -> list[int]:
    """Descriptors one of which becomes readable when the parent lets go.

    A worker that the parent forks inherits its end of the pipe and may outlive it: hence the pidfd as well, where
    the kernel has one.
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
    gone = parent_gone(parent)
    linux = sys.platform == "linux"
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=follow if linux else None)  # noqa: S603, PLW1509
    died = threading.Event()

    def stop() -> None:
        ready = select.select(gone, [], [])[0] if gone else []
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
