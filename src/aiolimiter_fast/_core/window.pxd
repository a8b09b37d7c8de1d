"""The sliding-window log: one ring of entries (time, weight, name) for any number of stacked rates.

Each rate knows the first entry inside its window and the sum of weights from there on, so a decision costs O(1)
amortised per rate, and a weight of any size is one entry. A window is closed at both ends: an entry exactly one
interval old still counts. `now` is always an argument, in nanoseconds of any clock; times in the ring never fall.

Behind the rates may be statements: at most so much from now until then, as somebody has said. They count what is
entered and forget nothing of it, so that a decision treats them as it treats rates; they are let go where one refuses.

Names are references that the caller has counted; where an entry goes, the caller lets go of its name first.
"""
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint32_t
from libc.string cimport memcpy

cdef extern from "Python.h":
    # Raw, since they need no GIL; not libc's own, so that tracemalloc counts them.
    void* PyMem_RawMalloc(size_t) noexcept nogil
    void* PyMem_RawRealloc(void*, size_t) noexcept nogil
    void PyMem_RawFree(void*) noexcept nogil

cdef struct window_rate:
    int64_t limit       # units in any interval
    int64_t interval    # ns
    int64_t used        # units of the entries from `tail` on
    int64_t tail        # number of the first entry inside the window
    int64_t until       # of a statement: when it is over

cdef struct window_t:
    int64_t* times
    void** names
    uint32_t* weights
    Py_ssize_t room     # slots of the ring
    Py_ssize_t start    # slot of the first entry
    int64_t first       # number of the first entry; they are numbered in order of arrival
    int64_t next        # number of the next entry
    Py_ssize_t holes    # entries that were given back whole
    int64_t latest      # the instant up to which the windows have been moved; INT64_MIN before the first
    window_rate* rates  # by rising interval; then the statements, for which there is room
    Py_ssize_t count    # rates
    Py_ssize_t rows     # rates and statements

cdef enum:
    LITTLE = 1024          # entries
    HEAVIEST = 0x7FFFFFFF  # what one entry holds
    STATED = 8             # statements kept at most: beyond that one stands for two, at the stricter figure


cdef inline Py_ssize_t window_slot(const window_t* w, int64_t number) noexcept nogil:
    cdef Py_ssize_t slot = w.start + <Py_ssize_t>(number - w.first)
    return slot if slot < w.room else slot - w.room


cdef inline void window_unroll(const window_t* w, void* to, const void* ring, Py_ssize_t unit) noexcept nogil:
    """Copy an array of the ring so that the first entry comes first."""
    cdef Py_ssize_t size = <Py_ssize_t>(w.next - w.first)
    cdef Py_ssize_t ahead = min(size, w.room - w.start)
    memcpy(to, <const char*>ring + w.start * unit, ahead * unit)
    memcpy(<char*>to + ahead * unit, ring, (size - ahead) * unit)


cdef inline bint window_resize(window_t* w, Py_ssize_t room) noexcept nogil:
    """Give the ring `room` slots, no fewer than there are entries; False if there is no memory."""
    cdef bint straight = w.start == 0  # then large arrays are moved by the page table, without a copy
    cdef int64_t* times = <int64_t*>PyMem_RawRealloc(w.times if straight else NULL, room * sizeof(int64_t))
    cdef void** names = <void**>PyMem_RawRealloc(w.names if straight else NULL, room * sizeof(void*))
    cdef uint32_t* weights = <uint32_t*>PyMem_RawRealloc(w.weights if straight else NULL, room * sizeof(uint32_t))
    cdef bint done = times != NULL and names != NULL and weights != NULL
    if straight:
        w.times = times if times != NULL else w.times
        w.names = names if names != NULL else w.names
        w.weights = weights if weights != NULL else w.weights
    elif done:
        window_unroll(w, times, w.times, sizeof(int64_t))
        window_unroll(w, names, w.names, sizeof(void*))
        window_unroll(w, weights, w.weights, sizeof(uint32_t))
        w.times, times = times, w.times
        w.names, names = names, w.names
        w.weights, weights = weights, w.weights
        w.start = 0
    if not straight:
        PyMem_RawFree(times)
        PyMem_RawFree(names)
        PyMem_RawFree(weights)
    if done:
        w.room = room
    return done


cdef inline void window_close_holes(window_t* w) noexcept nogil:
    """Move the entries together."""
    cdef int64_t number, moved = w.first
    cdef Py_ssize_t i, slot, place
    for number in range(w.first, w.next):
        for i in range(w.rows):
            if w.rates[i].tail == number:
                w.rates[i].tail = moved
        slot = window_slot(w, number)
        if w.weights[slot]:
            place = window_slot(w, moved)
            w.times[place], w.names[place], w.weights[place] = w.times[slot], w.names[slot], w.weights[slot]
            moved += 1
    for i in range(w.rows):
        if w.rates[i].tail == w.next:
            w.rates[i].tail = moved
    w.next = moved
    w.holes = 0


cdef inline void window_advance(window_t* w, int64_t now) noexcept nogil:
    """Move every rate past the entries that have left its window."""
    cdef Py_ssize_t i
    cdef window_rate* rate
    w.latest = max(w.latest, now)
    for i in range(w.count):
        rate = &w.rates[i]
        while rate.tail < w.next and w.times[window_slot(w, rate.tail)] < now - rate.interval:
            rate.used -= w.weights[window_slot(w, rate.tail)]
            rate.tail += 1


cdef inline Py_ssize_t window_failing(const window_t* w, int64_t weight) noexcept nogil:
    """The first rate or statement that has no room for `weight`, -1 if all have."""
    cdef Py_ssize_t i
    for i in range(w.rows):
        if weight > w.rates[i].limit - w.rates[i].used:
            return i
    return -1


cdef inline int64_t window_rate_due(const window_t* w, const window_rate* rate, int64_t weight) noexcept nogil:
    """The first instant at which one rate has room for `weight`; INT64_MAX if never, long ago if it has it now."""
    cdef int64_t excess = weight - (rate.limit - rate.used)
    cdef int64_t number = rate.tail
    if excess <= 0:
        return INT64_MIN
    if weight > rate.limit:
        return INT64_MAX
    while True:
        excess -= w.weights[window_slot(w, number)]
        if excess <= 0:
            return w.times[window_slot(w, number)] + rate.interval + 1
        number += 1


cdef inline int64_t window_stated_due(window_t* w, int64_t weight) noexcept nogil:
    """The first instant at which no statement refuses `weight`; those that are over are forgotten."""
    cdef Py_ssize_t i, kept = w.count
    cdef int64_t due = INT64_MIN
    for i in range(w.count, w.rows):
        if w.rates[i].until > w.latest:
            w.rates[kept] = w.rates[i]
            if weight > w.rates[i].limit - w.rates[i].used:
                due = max(due, w.rates[i].until)
            kept += 1
    w.rows = kept
    return due


cdef inline int64_t window_due(window_t* w, int64_t weight) noexcept nogil:
    """The first instant at which there is room for `weight`; INT64_MAX if never, long ago if there is room now."""
    cdef Py_ssize_t i
    cdef int64_t due = window_stated_due(w, weight) if w.rows > w.count else INT64_MIN
    for i in range(w.count):
        due = max(due, window_rate_due(w, &w.rates[i], weight))
    return due


cdef inline int64_t window_stated_left(const window_t* w) noexcept nogil:
    """What the statements leave, as far as they stand."""
    cdef Py_ssize_t i
    cdef int64_t left = INT64_MAX
    for i in range(w.count, w.rows):
        if w.rates[i].until > w.latest:
            left = min(left, w.rates[i].limit - w.rates[i].used)
    return left


cdef inline bint window_state(window_t* w, int64_t until, int64_t left) noexcept nogil:
    """Obey one statement more; False where another covers it."""
    cdef Py_ssize_t i, kept = w.count
    cdef window_rate* last
    for i in range(w.count, w.rows):
        if w.rates[i].until >= until and w.rates[i].limit - w.rates[i].used <= left:
            return False
    for i in range(w.count, w.rows):
        if w.rates[i].until > until or w.rates[i].limit - w.rates[i].used < left:
            w.rates[kept] = w.rates[i]
            kept += 1
    last = &w.rates[kept]
    if kept == w.count + STATED:
        last = &w.rates[kept - 1]
        last.until = max(last.until, until)
        last.limit = min(last.limit, last.used + left)
    else:
        last.limit, last.interval, last.used, last.tail, last.until = left, INT64_MAX, 0, w.next, until
        kept += 1
    w.rows = kept
    return True


cdef inline void window_count_stated(window_t* w, int64_t weight) noexcept nogil:
    """Count units for the statements alone, or take them off again."""
    cdef Py_ssize_t i
    for i in range(w.count, w.rows):
        w.rates[i].used += weight


cdef inline bint window_reserve(window_t* w) noexcept nogil:
    """Make room for one entry more; False if there is no memory."""
    cdef Py_ssize_t size = <Py_ssize_t>(w.next - w.first)
    if size < w.room:
        return True
    if w.holes > size >> 2:
        window_close_holes(w)
        return True
    # By half while that is little, then by an eighth.
    return window_resize(w, size + (size >> (1 if size < LITTLE else 3)) + 8)


cdef inline int64_t window_last(const window_t* w, int64_t otherwise) noexcept nogil:
    """The time of the newest entry."""
    return w.times[window_slot(w, w.next - 1)] if w.next > w.first else otherwise


cdef inline void window_append(window_t* w, int64_t now, uint32_t weight, void* name) noexcept nogil:
    """Enter an entry, for which there is room in the ring.

    It is never older than what was seen before: a clock may go back, and a caller may be held up between its look at
    the clock and this, while another moves the windows on.
    """
    cdef Py_ssize_t i, slot
    now = max(now, w.latest, window_last(w, now))
    w.next += 1
    slot = window_slot(w, w.next - 1)
    w.times[slot], w.names[slot], w.weights[slot] = now, name, weight
    for i in range(w.rows):
        w.rates[i].used += weight


cdef inline uint32_t window_pop(window_t* w) noexcept nogil:
    """Forget the first entry, and say how many units that were. Its name is gone already."""
    cdef Py_ssize_t i
    cdef Py_ssize_t slot = w.start
    cdef uint32_t units = w.weights[slot]
    if units == 0:
        w.holes -= 1
    for i in range(w.rows):
        if w.rates[i].tail == w.first:
            if i < w.count:
                w.rates[i].used -= units
            w.rates[i].tail += 1
    w.first += 1
    w.start = slot + 1 if slot + 1 < w.room else 0
    return units


cdef inline void window_shrink(window_t* w) noexcept nogil:
    """Give room back that has become too much."""
    cdef Py_ssize_t room = w.room
    while room > 64 and w.next - w.first < room >> 3:
        room >>= 1
    if room < w.room:
        window_resize(w, room)


cdef inline int64_t window_find(const window_t* w, int64_t instant) noexcept nogil:
    """The number of the first entry at or after `instant`."""
    cdef int64_t low = w.first
    cdef int64_t high = w.next
    cdef int64_t middle
    while low < high:
        middle = low + ((high - low) >> 1)
        if w.times[window_slot(w, middle)] < instant:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline void window_take_back(window_t* w, int64_t number, uint32_t weight) noexcept nogil:
    """Take `weight` units out of an entry; the rest of it stays, or a hole."""
    cdef Py_ssize_t i
    cdef Py_ssize_t slot = window_slot(w, number)
    for i in range(w.rows):
        if w.rates[i].tail <= number:
            w.rates[i].used -= weight
    w.weights[slot] -= weight
    if w.weights[slot] == 0:
        w.holes += 1


cdef inline void window_trim(window_t* w) noexcept nogil:
    """Forget the holes at the end, so that grants that nobody used leave nothing behind."""
    cdef Py_ssize_t i
    while w.next > w.first and w.weights[window_slot(w, w.next - 1)] == 0:
        w.next -= 1
        w.holes -= 1
        for i in range(w.rows):
            w.rates[i].tail = min(w.rates[i].tail, w.next)


cdef inline void window_free(window_t* w) noexcept nogil:
    PyMem_RawFree(w.times)
    PyMem_RawFree(w.names)
    PyMem_RawFree(w.weights)
    PyMem_RawFree(w.rates)
    w.times = NULL
    w.names = NULL
    w.weights = NULL
    w.rates = NULL
    w.room = w.start = w.holes = w.count = w.rows = 0
    w.first = w.next = 0
