"""The files that processes share: made whole or not at all, and checked before they are believed.

A file is a header of a page, and after it the slots of a log or the two lanes of a record. What never changes is in the
first kilobyte, with a checksum.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import stat
import struct
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from aiolimiter_fast._budget import seconds_left
from aiolimiter_fast._forking import deciding
from aiolimiter_fast.errors import BackendUnavailable, SharedMemoryError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["MOST_SLOTS", "Layout", "SharedFile", "directory", "path_of", "slots_for"]

PAGE = 4096
SLOT = 16
STATIC = 1024
MAGIC = b"aiolimfs"
VERSION = 2
LEAST_SLOTS = 64
# Without `capacity`: a page, in which what counts no more is to be seen until it is leaked.
LEAST_BY_DEFAULT = 256
# And 16 MiB.
MOST_SLOTS = 1 << 20
HINT = 128  # in words, as in `_core/shared.pxd`
LOCKED = 2048  # the byte that is locked where locks are of bytes

METHODS = {"cas": 1, "lock": 2}
KINDS = {"log": 1, "state": 2}
FIXED = struct.Struct("=8sIIIIIQ40s")
RATE = struct.Struct("=qqq")
MOST_RATES = (STATIC - FIXED.size - 4) // RATE.size


class Layout(NamedTuple):
    """What a file is made for. Rates: limit, interval (ns), burst if it matters. Slots 0: as many as there are."""

    kind: str
    method: str
    slots: int
    rates: tuple[tuple[int, ...], ...] = ()
    algorithm: str = ""

    def header(self) -> bytes:
        numbers = (METHODS[self.method], KINDS[self.kind], zlib.crc32(self.algorithm.encode()), len(self.rates))
        static = FIXED.pack(MAGIC, VERSION, *numbers, self.slots, boot())
        static += b"".join(RATE.pack(*rate, *(0,) * (3 - len(rate))) for rate in self.rates)
        static = static.ljust(STATIC - 4, b"\0")
        words = bytearray(PAGE - STATIC)
        if self.kind == "log":
            struct.pack_into("=q", words, 8 * HINT - STATIC, self.slots)  # the first number, so that lap 0 is none
        return static + struct.pack("=I", zlib.crc32(static)) + bytes(words)

    def check(self, path: Path, found: bytes, size: int) -> Layout:
        """What the file at `path` is. Raises SharedMemoryError if it is not what is wanted here."""
        if found[: len(MAGIC)] != MAGIC or len(found) < STATIC:
            raise SharedMemoryError(f"{path} is no shared memory of aiolimiter_fast")
        _, version, method, kind, algorithm, count, slots, booted = FIXED.unpack_from(found)
        if version != VERSION:
            raise SharedMemoryError(f"{path} has format {version}, but this version of aiolimiter_fast has {VERSION}")
        (checksum,) = struct.unpack_from("=I", found, STATIC - 4)
        if zlib.crc32(found[: STATIC - 4]) != checksum or size != PAGE + SLOT * slots:
            raise SharedMemoryError(f"{path} is damaged")
        if kind != KINDS[self.kind]:
            raise SharedMemoryError(f"{path} holds no {self.kind}")
        if algorithm != zlib.crc32(self.algorithm.encode()):
            raise SharedMemoryError(f"{path} is for another algorithm, not {self.algorithm or 'a log'}")
        width = len(self.rates[0]) if self.rates else 2
        rates = tuple(RATE.unpack_from(found, FIXED.size + i * RATE.size)[:width] for i in range(count))
        if rates != self.rates:
            raise SharedMemoryError(f"{path} is for other rates: {_told(rates)}, not {_told(self.rates)}")
        if self.slots and slots != self.slots:
            raise SharedMemoryError(f"{path} has capacity={slots}, not {self.slots}")
        if not _same_boot(booted.rstrip(b"\0"), boot()):
            raise Rebooted(
                f"{path} was made before this machine was last started, so its times mean nothing any more; delete it,"
                " or pass on_reboot='restart'"
            )
        if method != METHODS[self.method]:
            engines = ("compiled", "Python") if method == METHODS["cas"] else ("Python", "compiled")
            raise SharedMemoryError(f"{path} is for the {engines[0]} engine; this is the {engines[1]} one")
        return self._replace(slots=slots)


class Rebooted(SharedMemoryError):
    """The file is older than the last start of the machine."""


class SharedFile:
    """A mapped file. Attributes: path, layout, mapping. `lock` is one that the system frees if its owner dies."""

    def __init__(self, path: Path, wanted: Layout, *, make: bool, restart: bool = False, own: bool = False) -> None:
        """Open the file, or make it.

        Arguments: make, if there is none; restart, if it is older than the last start of the machine; own, refuse a
        file of another user.

        Raises SharedMemoryError for a file that is not what is wanted, FileNotFoundError, OSError.
        """
        self.path = path
        self.descriptor = -1
        with deciding:  # closing any descriptor of a file ends the locks that this process has on it
            while self.descriptor < 0:
                try:
                    descriptor = os.open(path, os.O_RDWR | _FLAGS)
                except FileNotFoundError:
                    if not make:
                        raise
                    _make(path, wanted)
                    continue
                try:
                    info = os.fstat(descriptor)
                    if not stat.S_ISREG(info.st_mode):
                        raise SharedMemoryError(f"{path} is no regular file")
                    if own and info.st_uid != _user():
                        raise SharedMemoryError(f"{path} belongs to another user")
                    self.layout = wanted.check(path, os.read(descriptor, STATIC), info.st_size)
                    self.mapping = mmap.mmap(descriptor, info.st_size)
                    self.descriptor = descriptor
                except Rebooted:
                    if not restart:
                        raise
                    _restart(descriptor, wanted)
                finally:
                    if self.descriptor < 0:
                        os.close(descriptor)

    @contextmanager
    def lock(self) -> Iterator[None]:
        with deciding, locked(self.descriptor):
            yield

    def close(self) -> None:
        with deciding:
            if self.descriptor >= 0:
                os.close(self.descriptor)
                self.descriptor = -1
                with suppress(BufferError):  # somebody looks at it still: then it goes with them
                    self.mapping.close()

    def __del__(self) -> None:
        if getattr(self, "descriptor", -1) >= 0:
            self.close()


_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def _told(rates: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join(
        f"{limit}/{interval // 1_000_000}" + (f" burst {burst[0]}" if burst and burst[0] != limit else "")
        for limit, interval, *burst in rates
    )


def _make(path: Path, layout: Layout) -> None:
    """Make the file, unless somebody else just has."""
    temporary = _write(path, layout)
    try:
        if sys.platform == "win32":
            os.rename(temporary, path)  # never over another file there
        else:
            os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def _restart(descriptor: int, layout: Layout) -> None:
    """Empty a file that no process can have in use, as it is older than all of them; unless somebody else just has."""
    with locked(descriptor):
        os.lseek(descriptor, 0, os.SEEK_SET)
        if _same_boot(FIXED.unpack_from(os.read(descriptor, STATIC))[-1].rstrip(b"\0"), boot()):
            return
        header = layout.header()
        os.lseek(descriptor, STATIC, os.SEEK_SET)
        _write_all(descriptor, header[STATIC:], layout.slots)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, header[:STATIC])  # last: until then it is as old as it was


def _write(path: Path, layout: Layout) -> str:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)  # mode 0600
    try:
        _write_all(descriptor, layout.header(), layout.slots)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)
    return temporary


def _write_all(descriptor: int, header: bytes, slots: int) -> None:
    """Write a header and empty slots: written out, so that a full disk is an error here and not a SIGBUS later."""
    os.write(descriptor, header)
    left, zeros = SLOT * slots, bytes(1 << 16)
    while left > 0:
        left -= os.write(descriptor, zeros[:left])


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Hold the lock of a file; the system frees it when the process ends, however that comes.

    Raises BackendUnavailable if another process keeps it for longer than this call may take: it has been stopped.
    """
    budget = seconds_left()
    end = time.monotonic() + budget
    pause = 0.00001
    while not _lock(descriptor):
        if time.monotonic() >= end:
            raise BackendUnavailable(
                f"another process has kept the lock of the shared memory for {budget:.3g} seconds: it is stopped in"
                " the midst of a decision, or does not get to run"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.001)
    try:
        yield
    finally:
        if sys.platform == "win32":
            os.lseek(descriptor, LOCKED, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int) -> bool:
    """Try to take the lock of a file."""
    if sys.platform == "win32":
        os.lseek(descriptor, LOCKED, os.SEEK_SET)
        with suppress(OSError):
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            return True
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def _user() -> int:
    return os.geteuid() if sys.platform != "win32" else 0


def _read_boot() -> bytes:
    if sys.platform == "linux":
        with suppress(OSError):
            return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:40]
    if sys.platform == "darwin":
        import subprocess

        with suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout.strip()[:40]
    return f"~{round(time.time() - time.monotonic())}".encode()


_boot: list[bytes] = []


def boot() -> bytes:
    """What tells this run of the machine from all others."""
    if not _boot:
        _boot.append(_read_boot())
    return _boot[0]


def _same_boot(a: bytes, b: bytes) -> bool:
    if a[:1] == b[:1] == b"~":  # seconds by the time of day, which is corrected now and then
        return abs(int(a[1:]) - int(b[1:])) <= 60
    return a == b


def slots_for(limit: int, capacity: int | None) -> int:
    """A power of two, enough for `capacity` entries; by default for one per permit of the largest limit."""
    wanted = min(max(limit, LEAST_BY_DEFAULT), MOST_SLOTS) if capacity is None else capacity
    return max(LEAST_SLOTS, 1 << (wanted - 1).bit_length())


def directory() -> Path:
    """This user's directory for shared memory, in memory where the system has that.

    Raises SharedMemoryError if somebody else could write there.
    """
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()
    path = Path(base) / f"aiolimiter_fast-{_user()}"
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    info = path.lstat()
    safe = sys.platform == "win32" or (info.st_uid == _user() and not info.st_mode & 0o022)
    if not stat.S_ISDIR(info.st_mode) or not safe:
        raise SharedMemoryError(f"{path} must be a directory that only its owner, this user, can write")
    return path


def path_of(name: str) -> Path:
    """The file of that name. Raises TypeError or ValueError for what is no name."""
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")
    if not name:
        raise ValueError("name must not be empty, got ''")
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", name[:32], flags=re.ASCII)
    return directory() / f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def private_path() -> Path:
    """A new path for what is to go when this process ends; what ended processes have left behind is removed."""
    where = directory()
    for path in where.glob("mp-*"):
        with suppress(OSError, ValueError):
            if not _lives(int(path.name.split("-")[1])):
                path.unlink()
    return where / f"mp-{os.getpid()}-{uuid.uuid4().hex}"


def _lives(process: int) -> bool:
    if sys.platform == "win32":
        return process == os.getpid()  # files in use cannot be removed there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def remover(path: Path) -> Callable[[], None]:
    """A function that removes the file, if it is called by the process that this was called by."""
    process = os.getpid()

    def remove() -> None:
        if os.getpid() == process:
            with suppress(OSError):
                path.unlink()

    return remove
