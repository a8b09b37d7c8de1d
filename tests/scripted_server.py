"""A real HTTP server on loopback that answers as it is told, and remembers what came."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self


class Answer(NamedTuple):
    """Status 0 hangs up without an answer; `latency`, and `pause` after each byte of the body, are in seconds."""

    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    body: bytes = b"body"
    latency: float = 0
    pause: float = 0


class Received(NamedTuple):
    method: str
    path: str
    body: bytes
    headers: dict[str, str]


class ScriptedServer(ThreadingHTTPServer):
    """The answers in turn, and 200 when there are no more."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: deque[Answer] = deque()
        self.received: list[Received] = []
        self.connections = 0
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))

    def answer(self, *answers: Answer | int) -> None:
        self.answers.extend(Answer(each) if isinstance(each, int) else each for each in answers)

    def handle_error(self, *args: Any) -> None:
        pass  # clients hang up as they please

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def setup(self) -> None:
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = b""
        while size := int(self.rfile.readline(), 16):
            parts += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return parts

    def respond(self) -> None:
        body = self.body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.server.lock:
            self.server.running += 1
            self.server.most = max(self.server.most, self.server.running)
            self.server.received.append(Received(self.command, self.path, body, headers))
            answer = self.server.answers.popleft() if self.server.answers else Answer()
        try:
            time.sleep(answer.latency)
            if answer.status == 0:
                self.close_connection = True
                return
        finally:
            with self.server.lock:
                self.server.running -= 1
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        for part in answer.body if answer.pause else ():
            self.wfile.write(bytes([part]))
            time.sleep(answer.pause)
        if not answer.pause:
            self.wfile.write(answer.body)

    def do_CONNECT(self) -> None:
        """Be a proxy for what is encrypted: pass bytes on, both ways, until one side ends."""
        host, _, port = self.path.rpartition(":")
        self.server.received.append(Received(self.command, self.path, b"", {}))
        self.close_connection = True
        with socket.create_connection((host, int(port)), 5) as beyond:
            self.send_response_only(200)
            self.end_headers()
            sides = {self.connection: beyond, beyond: self.connection}
            while True:
                for side in select.select(list(sides), [], [])[0]:
                    part = side.recv(65_536)
                    if not part:
                        return
                    sides[side].sendall(part)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.respond
        raise AttributeError(name)

    def log_message(self, *args: Any) -> None:
        pass
