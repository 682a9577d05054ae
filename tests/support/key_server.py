"""An https server of a JWKS that misbehaves in a chosen way: raw sockets under real TLS."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from jwt.algorithms import ECAlgorithm

Serve = Callable[[socket.socket], None]
DRIP_S = 0.05


def a_key() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def a_set(**keys: EllipticCurvePrivateKey) -> bytes:
    """A JWKS with the public parts of these keys, by id."""
    made = [ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": id, "use": "sig"} for id, key in keys.items()]
    return json.dumps({"keys": made}).encode()


def a_token(key: EllipticCurvePrivateKey, id: str, **claims: Any) -> str:
    known = {"sub": "svc", "aud": "moderation", "iss": "https://id", "exp": time.time() + 600}
    return jwt.encode(known | {"scope": "verdicts:read posts:write"} | claims, key, "ES256", headers={"kid": id})


class KeyServer:
    """Serves each connection with `serve`, and counts connections."""

    def __init__(self, folder: Path, certificate: trustme.LeafCert) -> None:
        self.serve: Serve = nothing
        self.secure = True  # whether it uses TLS
        self.served = 0  # connections that have ended
        self.accepted = 0
        self.ca = folder / "key-server-ca.pem"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}/keys?v=1"
        self.closed = threading.Event()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # the client may close the connection, and does
            connection.settimeout(60)
            if self.secure:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                self.serve(connection)
        self.served += 1

    def close(self) -> None:
        self.closed.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@contextmanager
def key_server(folder: Path, *names: str) -> Iterator[KeyServer]:
    """`names`: of the server's certificate; default: the right one."""
    ca = trustme.CA()
    server = KeyServer(folder, ca.issue_cert(*(names or ("127.0.0.1",))))
    ca.cert_pem.write_to_path(str(server.ca))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()


def asked(connection: socket.socket) -> bytes:
    """The request, once it has arrived."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        if not (more := connection.recv(4096)):
            raise ConnectionResetError
        request += more
    return request


def nothing(connection: socket.socket) -> None:
    """Sends nothing, until the other side closes the connection."""
    while connection.recv(4096):
        pass


def sending(*parts: bytes) -> Serve:
    """Sends these bytes and closes the connection."""

    def serve(connection: socket.socket) -> None:
        asked(connection)
        for part in parts:
            connection.sendall(part)

    return serve


def dripping(head: bytes, endless: bytes, pause_s: float = DRIP_S) -> Serve:
    """Sends `head` at once, then `endless` again and again, until the other side closes the connection."""

    def serve(connection: socket.socket) -> None:
        asked(connection)
        connection.sendall(head)
        while True:
            connection.sendall(endless)
            time.sleep(pause_s)

    return serve


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return "".join(f"{line}\r\n" for line in [*head, ""]).encode() + body


def chunked(body: bytes, *, cut: int = 0) -> bytes:
    """A response with this body in chunks of 50 bytes, without the last `cut` bytes."""
    chunks = [body[at : at + 50] for at in range(0, len(body), 50)]
    written = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (written[:-cut] if cut else written)


def faults(good: bytes) -> dict[str, Serve]:
    """Ways to misbehave, by name. `good`: a valid key set."""
    ok = b"HTTP/1.1 200 OK\r\n"
    oct_key = {"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"}
    return {
        "cut chunks": sending(chunked(good, cut=40)),
        "bad chunk": sending(ok + b"Transfer-Encoding: chunked\r\n\r\nbanana\r\n"),
        "cut body": sending(answer(good)[:-10]),
        "cut body that parses": sending(answer(good + b" " * 50)[:-20]),
        "no status line": sending(b"\x00\x01\x02 what a server says\r\n\r\n"),
        "bad status": sending(b"HTTP/1.1 banana\r\n\r\n" + good),
        "bad header": sending(ok + b"Content-Length: many\r\n: \r\n\xff\xfe\r\n\r\n{"),
        "nothing": sending(),
        "long header": sending(ok, b"X: " + b"x" * 70_000 + b"\r\n\r\n", good),
        "many headers": sending(ok, b"X: x\r\n" * 300 + b"\r\n", good),
        "deep JSON": sending(answer(b"[" * 200_000)),
        "deep keys": sending(answer(b'{"keys": ' + b'[{"a":' * 50_000)),
        "no JSON": sending(answer(b"\xff\xfe what a server says")),
        "no set": sending(answer(b"null")),
        "a list": sending(answer(b"[1, 2]")),
        "keys are no list": sending(answer(b'{"keys": {"kid": "a"}}')),
        "keys are no objects": sending(answer(b'{"keys": [1, null, "a"]}')),
        "no keys": sending(answer(b'{"keys": []}')),
        "a secret": sending(answer(json.dumps({"keys": [oct_key]}).encode())),
        "a point off the curve": sending(answer(good.replace(b'"x": "', b'"x": "AAAA'))),
        "long number": sending(answer(b'{"keys": ' + b"9" * 100_000 + b"}")),
        "large": sending(answer(good + b" " * (1 << 20))),
        "endless body": dripping(ok + b"\r\n", b" " * 65_536, 0.0),
        "endless headers": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, 0.0),
        "slow body": dripping(ok + b"Content-Length: 900\r\n\r\n", b" "),
        "slow chunks": dripping(ok + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        "slow header": dripping(ok + b"X: ", b"x"),
        "slow status": dripping(b"", b"H"),
        "silence": nothing,
        "redirect": sending(answer(good, "302 Found", "Location: https://127.0.0.1:9/")),
        "not found": sending(answer(good, "404 Not Found")),
        "no content": sending(b"HTTP/1.1 204 No Content\r\n\r\n"),
        "compressed": sending(answer(b"\x1f\x8b\x08\x00 what a server says", "200 OK", "Content-Encoding: gzip")),
    }
