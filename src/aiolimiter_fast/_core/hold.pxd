"""What somebody has stated: at most so much from now until then, for any number of such statements.

All are obeyed, each until its own instant, so a statement that comes late takes nothing back. One that another covers
(no more, no sooner over) is not kept; the others rise in `until` and in `left` alike. `now` is always an argument.
"""
from libc.stdint cimport INT64_MAX, int64_t

cdef enum:
    STATEMENTS = 8    # kept at most: beyond that one stands for two, at the stricter figure
    PAUSED = -1       # as `left`: nothing at all, not even what is free

cdef extern from *:
    """
    #define HOLD_DUST 1e-9
    """
    double DUST "HOLD_DUST"    # permits: sums of fractions are no nearer

cdef struct hold_entry:
    int64_t until     # ns of any clock
    double left       # permits

cdef struct hold_t:
    int64_t opens     # the first instant at which a statement is over; INT64_MAX where there is none
    Py_ssize_t count
    hold_entry entries[STATEMENTS]


cdef inline void hold_clear(hold_t* h) noexcept nogil:
    h.count = 0
    h.opens = INT64_MAX


cdef inline bint hold_state(hold_t* h, int64_t until, double left) noexcept nogil:
    """Obey one statement more; False where that changes nothing."""
    cdef Py_ssize_t first, end = 0
    cdef Py_ssize_t i
    while end < h.count and h.entries[end].until < until:
        end += 1
    if end < h.count and h.entries[end].left <= left:
        return False
    first = end
    while first > 0 and h.entries[first - 1].left >= left:
        first -= 1
    if end < h.count and h.entries[end].until == until:
        end += 1
    if first < end:  # these are covered: the new one takes their place
        for i in range(end, h.count):
            h.entries[first + 1 + i - end] = h.entries[i]
        h.count += first + 1 - end
    elif h.count < STATEMENTS:
        for i in range(h.count, first, -1):
            h.entries[i] = h.entries[i - 1]
        h.count += 1
    elif first > 0:
        h.entries[first - 1].until = until
        return True
    else:
        h.entries[0].left = left
        return True
    h.entries[first].until, h.entries[first].left = until, left
    h.opens = h.entries[0].until
    return True


cdef inline void hold_pop(hold_t* h) noexcept nogil:
    """Forget the first."""
    cdef Py_ssize_t i
    h.count -= 1
    for i in range(h.count):
        h.entries[i] = h.entries[i + 1]
    h.opens = h.entries[0].until if h.count else INT64_MAX


cdef inline const hold_entry* hold_failing(const hold_t* h, double amount) noexcept nogil:
    """The last statement that leaves less than `amount`; NULL if there is none."""
    cdef Py_ssize_t i = h.count
    while i > 0:
        i -= 1
        if h.entries[i].left < amount - DUST:
            return &h.entries[i]
    return NULL


cdef inline void hold_take(hold_t* h, double amount) noexcept nogil:
    """Take what every statement leaves."""
    cdef Py_ssize_t i
    for i in range(h.count):
        h.entries[i].left -= amount


cdef inline void hold_give_back(hold_t* h, double amount) noexcept nogil:
    """Take back what was taken when all of the statements stood, and was not used."""
    cdef Py_ssize_t i
    for i in range(h.count):
        if h.entries[i].left != PAUSED:
            h.entries[i].left += amount
