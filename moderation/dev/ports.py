"""Free ports for servers of this machine that are killed and come back on the same port."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from collections.abc import Collection
from pathlib import Path

from moderation.errors import ConfigError

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000  # below it are the ports that well-known services use
ATTEMPTS = 100


def lasting_ports() -> range:
    """Ports that the kernel never gives to an outgoing connection. Empty where the kernel does not publish its range.

    A server that is restarted on an ephemeral port may find that a client of something else has got the port meanwhile.
    """
    try:
        first = int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return range(0)
    return range(LOWEST, first)


class HeldPorts:
    """Ports that are bound until this object's `with` ends, so that no port is picked twice.

    `avoid`: ports that another server will bind later.
    """

    def __init__(self, host: str = "127.0.0.1", avoid: Collection[int] = ()) -> None:
        self._host = host
        self._avoid = avoid
        self._sockets = contextlib.ExitStack()

    def __enter__(self) -> HeldPorts:
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets.close()

    def take(self, port: int) -> int:
        """Holds this port. Raises ConfigError when the port is taken or the host is no address of this machine."""
        try:
            return self._bind(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"cannot listen on {self._host}:{port}: {error.strerror}") from error
            raise ConfigError(f"port {port} is taken ({error.strerror}): choose another, or 0 for any") from error

    def pick(self) -> int:
        """Holds a free port: of `lasting_ports` if there is one, else an ephemeral one. Raises ConfigError."""
        if lasting := lasting_ports():
            for _ in range(ATTEMPTS):
                port = random.choice(lasting)  # noqa: S311  no secret
                if port in self._avoid:
                    continue
                try:
                    return self._bind(port)
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        break  # the host is wrong, or the kernel keeps these ports: `take` reports it
        return self.take(0)

    def _bind(self, port: int) -> int:
        with contextlib.ExitStack() as undo:
            bound = undo.enter_context(socket.socket())
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT is no obstacle
            bound.bind((self._host, port))
            bound.listen()  # two sockets with SO_REUSEADDR may bind one port while neither listens
            self._sockets.push(undo.pop_all())
            return int(bound.getsockname()[1])


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Different ports that are free at this moment. Raises ConfigError."""
    with HeldPorts(host) as held:
        return [held.pick() for _ in range(count)]
