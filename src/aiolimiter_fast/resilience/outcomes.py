"""What came of a call, whichever HTTP client made it: told by attributes and by names, none of them imported."""

from __future__ import annotations

from typing import Any

__all__ = [
    "headers_of", "is_connection_error", "is_failure", "is_idempotent", "is_transient", "method_of", "status_of",
    "was_never_sent",
]  # fmt: skip

# RFC 9110, 9.2.2.
IDEMPOTENT = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"))

# Exceptions by package and class; those of a base class are meant too.
CONNECTION_ERRORS = frozenset(
    (
        ("httpx", "TimeoutException"), ("httpx", "NetworkError"), ("httpx", "RemoteProtocolError"),
        ("httpx2", "TimeoutException"), ("httpx2", "NetworkError"), ("httpx2", "RemoteProtocolError"),
        ("aiohttp", "ClientConnectionError"), ("aiohttp", "ClientPayloadError"),
        ("requests", "ConnectionError"), ("requests", "Timeout"), ("requests", "ChunkedEncodingError"),
        ("urllib3", "ProtocolError"), ("urllib3", "TimeoutError"), ("urllib3", "NewConnectionError"),
        ("builtins", "ConnectionError"), ("builtins", "TimeoutError"), ("asyncio", "TimeoutError"),
        ("socket", "gaierror"),
    )
)  # fmt: skip
# Those of them that come to pass before anything was sent.
NEVER_SENT = frozenset(
    (
        ("httpx", "ConnectError"), ("httpx", "ConnectTimeout"), ("httpx", "PoolTimeout"),
        ("httpx2", "ConnectError"), ("httpx2", "ConnectTimeout"), ("httpx2", "PoolTimeout"),
        ("aiohttp", "ClientConnectorError"), ("aiohttp", "ConnectionTimeoutError"),
        ("requests", "ConnectTimeout"), ("urllib3", "NewConnectionError"), ("urllib3", "ConnectTimeoutError"),
        ("builtins", "ConnectionRefusedError"), ("socket", "gaierror"),
    )
)  # fmt: skip
# What another attempt does not mend.
LASTING = frozenset(
    (
        ("ssl", "SSLCertVerificationError"),
        ("aiohttp", "ClientSSLError"),
        ("requests", "SSLError"),
        ("aiohttp", "InvalidURL"),
    )
)
# How many exceptions, one the cause of the other, are looked at.
DEPTH = 10


def _names(error: BaseException) -> set[tuple[str, str]]:
    return {(base.__module__.partition(".")[0], base.__qualname__) for base in type(error).__mro__}


def _chain(error: BaseException) -> list[BaseException]:
    """The error, and what it came of."""
    chain: list[BaseException] = []
    following: Any = error
    while isinstance(following, BaseException) and len(chain) < DEPTH and following not in chain:
        chain.append(following)
        inner = following.args[0] if following.args else None
        reason = getattr(inner, "reason", None)  # urllib3's, within those of requests
        following = following.__cause__ or following.__context__ or (reason if reason is not None else inner)
    return chain


def status_of(outcome: object) -> int | None:
    """The HTTP status of a response, or of an exception that carries one."""
    response = getattr(outcome, "response", None)
    for subject in (outcome, response):
        for name in ("status_code", "status"):
            status = getattr(subject, name, None)
            if isinstance(status, int) and not isinstance(status, bool):
                return int(status)
    return None


def headers_of(outcome: object) -> Any:
    """The headers of a response, or of an exception that carries them; {} if there are none."""
    for subject in (outcome, getattr(outcome, "response", None)):
        headers = getattr(subject, "headers", None)
        if headers is not None:
            return headers
    return {}


def method_of(outcome: object) -> str | None:
    """The method of the request that led to a response or exception, in upper case."""
    for subject in (outcome, getattr(outcome, "response", None)):
        for request in (_request(subject), getattr(subject, "request_info", None), subject):
            method = getattr(request, "method", None)
            if isinstance(method, str):
                return method.upper()
    return None


def _request(subject: object) -> Any:
    try:
        return getattr(subject, "request", None)
    except RuntimeError:  # httpx, where it was never set
        return None


def is_idempotent(outcome: object, method: str | None = None) -> bool:
    """Whether the request behind `outcome` may be sent twice: by its method, or since it has an Idempotency-Key.

    Argument: method, what to take it for where the outcome does not tell.
    """
    known = method_of(outcome) or method
    if known is not None and known.upper() in IDEMPOTENT:
        return True
    for subject in (outcome, getattr(outcome, "response", None)):
        for request in (_request(subject), getattr(subject, "request_info", None)):
            headers = getattr(request, "headers", None)
            try:
                if headers is not None and any(str(name).lower() == "idempotency-key" for name in headers):
                    return True
            except TypeError:
                continue
    return False


def is_connection_error(error: object) -> bool:
    """Whether an exception is one of the network's, in httpx, aiohttp, requests, urllib3 or Python itself."""
    if not isinstance(error, Exception):
        return False
    if any(_names(each) & LASTING for each in _chain(error)):
        return False
    return bool(_names(error) & CONNECTION_ERRORS)


def was_never_sent(error: object) -> bool:
    """Whether an exception shows that the server has seen nothing of the request."""
    return isinstance(error, Exception) and any(_names(each) & NEVER_SENT for each in _chain(error))


def is_transient(outcome: object, method: str | None = None) -> bool:
    """Whether another attempt is due.

    After 429, whatever the method, since the request was turned away; after 503 and connection errors if the request
    is idempotent, or was never sent.

    Argument: method, what to take the request's method for where the outcome does not tell.
    """
    status = status_of(outcome)
    if status == 429:
        return True
    if status == 503:
        return is_idempotent(outcome, method)
    if status is not None or not is_connection_error(outcome):
        return False
    return was_never_sent(outcome) or is_idempotent(outcome, method)


def is_failure(outcome: object, *, count_429: bool = False) -> bool:
    """Whether an outcome speaks against the server's health: a status of 500 or more, or a connection error.

    Argument: count_429, whether a 429 does too. It shows a server that is alive and limits.
    """
    status = status_of(outcome)
    if status is None:
        return is_connection_error(outcome)
    return status >= 500 or (count_429 and status == 429)
