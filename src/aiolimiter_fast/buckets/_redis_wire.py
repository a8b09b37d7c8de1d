"""What goes over the wire to a Redis or Valkey: commands packed once, and answers in RESP 2 or 3."""

from __future__ import annotations

from typing import Any

from aiolimiter_fast._lua import Script

__all__ = ["ERRORS", "PENDING", "Arguments", "Refusal", "answered", "command", "encoded", "packed"]

# What the clients raise for an error that begins with this word.
ERRORS = {
    "ASK": "AskError",
    "CLUSTERDOWN": "ClusterDownError",
    "LOADING": "BusyLoadingError",
    "MOVED": "MovedError",
    "NOSCRIPT": "NoScriptError",
    "READONLY": "ReadOnlyError",
    "TRYAGAIN": "TryAgainError",
}
PENDING = object()


class Refusal:
    """An error that the server answered."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def answered(data: bytes) -> Any:
    """The answer that the data are, in RESP 2 or 3, without messages pushed before it; PENDING if more is to come."""
    if data.startswith(b"*2\r\n:") and data.count(b"\r\n") == 3 and data.count(b"\r\n:") == 2:  # what a denial is
        _, first, second, _ = data.split(b"\r\n")
        return [int(first[1:]), int(second[1:])]
    at = 0
    try:
        while True:
            pushed = data[at : at + 1] == b">"
            value, at = parsed(data, at)
            if not pushed:
                return value
    except IndexError:
        return PENDING


def parsed(data: bytes, at: int) -> tuple[Any, int]:
    """The value at a place, and where it ends. Raises IndexError if it is not all there."""
    end = data.find(b"\r\n", at)
    if end < 0:
        raise IndexError
    kind, text, at = data[at], data[at + 1 : end], end + 2
    if kind == 58:  # :
        return int(text), at
    if kind in (36, 61):  # $ =
        size = int(text)
        if size < 0:
            return None, at
        if len(data) < at + size + 2:
            raise IndexError
        return data[at : at + size], at + size + 2
    if kind in (42, 62, 126):  # * > ~
        values = []
        for _ in range(int(text)):
            value, at = parsed(data, at)
            values.append(value)
        return values, at
    if kind == 45:  # -
        return Refusal(text.decode(errors="replace")), at
    return (None if kind == 95 else text), at  # _


class Arguments:
    """Arguments of a script: values and what they are on the wire, and then others that are the same for many calls."""

    __slots__ = ("count", "others", "values", "wire")

    def __init__(self, values: tuple[Any, ...], wire: bytes | None = None, others: tuple[Any, ...] = ()) -> None:
        self.values = values
        self.others = others
        self.count = len(values) + len(others)
        self.wire = packed(*values) if wire is None else wire


def command(script: Script, key: bytes, arguments: Arguments, by_source: bool) -> tuple[Any, ...]:
    name, body = ("EVAL", script.source) if by_source else ("EVALSHA", script.digest)
    return name, body, 1, key, *arguments.values, *arguments.others


def packed(*values: bytes | str | int) -> bytes:
    """Values as arguments of a command, as they go over the wire."""
    parts = []
    for value in values:
        part = value if isinstance(value, bytes) else str(value).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(part), part))
    return b"".join(parts)


def encoded(answer: Any, client: Any) -> Any:
    """An answer as it came over the wire, where the client has decoded it."""
    if isinstance(answer, str):
        encoder = client.get_encoder()
        return answer.encode(encoder.encoding, encoder.encoding_errors)
    return [encoded(part, client) for part in answer] if isinstance(answer, list) else answer
