"""Readings of a store's clock, told from time stamps of the user's own."""

from __future__ import annotations

__all__ = ["Reading"]


class Reading(int):
    """Milliseconds that a bucket's own `now` gave.

    An item with such a time stamp means now, whenever its decision is made: it is dated under the store's lock, and a
    process that was stopped in between does not count in the past. Any other number is taken as it is.
    """

    __slots__ = ()
