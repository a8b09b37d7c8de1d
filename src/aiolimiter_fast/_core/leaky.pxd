"""The leaky bucket as a meter, in integers; equal to a token bucket and to GCRA.

The level is kept in units chosen per bucket, so that one permit and the leak of one nanosecond are both
whole numbers. Where rate and period allow it their ratio is exact; else a permit is rounded up, and the
bucket never admits more than it was asked to. `now` is always an argument, in nanoseconds of any clock.

Source: ITU-T I.371 (2004), annex A: the continuous-state leaky bucket and the virtual scheduling algorithm.
"""
from libc.math cimport ceil, floor, frexp, ldexp
from libc.stdint cimport INT64_MAX, int64_t

cdef struct leak_t:
    int64_t level      # units above empty at `last`
    int64_t last       # the instant of the level; INT64_MAX before the first
    int64_t latest     # the greatest instant seen: above `last` where the clock has gone back
    int64_t capacity   # units that fit
    int64_t permit     # units of one permit
    int64_t drain      # units that leak in a nanosecond
    int64_t idle       # nanoseconds after which any level has drained


cdef inline int leak_exponent(double x) noexcept nogil:
    cdef int exponent = 0
    frexp(x, &exponent)
    return exponent


cdef inline int64_t leak_cost(const leak_t* b, double amount) noexcept nogil:
    """Units of `amount` permits. The product heals decimal fractions: ten times 0.1 is one permit."""
    return <int64_t>ceil(amount * <double>b.permit)


cdef inline void leak_configure(
    leak_t* b, double max_rate, double period_ns, double burst, double level
) noexcept nogil:
    """Set rate, burst and level (permits). The caller has checked that max(burst, level, 1) permits
    drain within 2^60 ns."""
    cdef double extent = max(max(burst, level), 1.0)
    cdef double emission = period_ns / max_rate
    cdef int shift = 61 - max(leak_exponent(extent * period_ns), leak_exponent(max_rate))
    cdef double permit = ldexp(period_ns, shift)
    cdef double drain = ldexp(max_rate, shift)
    if permit != floor(permit) or drain != floor(drain):
        shift = 61 - max(leak_exponent(extent * emission), 1)
        permit = ceil(ldexp(emission, shift))
        drain = ldexp(1.0, shift)
    b.permit = <int64_t>permit
    b.drain = <int64_t>drain
    b.capacity = leak_cost(b, burst)
    b.level = leak_cost(b, level)
    b.idle = max(b.capacity, b.level) // b.drain + 1


cdef inline void leak_advance(leak_t* b, int64_t now) noexcept nogil:
    """Let the level leak until `now`.

    A clock that goes back is followed from there. When it comes past its old readings again, only what lies
    beyond them leaks: the time up to there may be the same time twice.
    """
    cdef int64_t start = b.last
    cdef int64_t leaked
    if now > start:
        if start != b.latest and now > b.latest:
            start = b.latest
        # Below `idle` neither the subtraction nor the product can overflow.
        if start < now - b.idle:
            b.level = 0
        else:
            leaked = (now - start) * b.drain
            b.level = b.level - leaked if b.level > leaked else 0
    if now > b.latest or start == INT64_MAX:
        b.latest = now
    b.last = now


cdef inline bint leak_fits(const leak_t* b, int64_t cost) noexcept nogil:
    return b.level + cost <= b.capacity


cdef inline int64_t leak_due(const leak_t* b, int64_t cost) noexcept nogil:
    """The first instant at which `cost` fits; at or before `b.last` if it fits already."""
    cdef int64_t excess = b.level + cost - b.capacity
    if excess <= 0:
        return b.last
    return b.last + (excess - 1) // b.drain + 1


cdef inline int64_t leak_due_from(const leak_t* b, int64_t cost, int64_t instant, int64_t least) noexcept nogil:
    """The first instant at which `cost` fits where nothing is admitted before `instant`, and the level then is at
    least `least`."""
    cdef leak_t later = b[0]
    leak_advance(&later, instant)
    later.level = max(later.level, least)
    return leak_due(&later, cost)


cdef inline int64_t leak_empty(const leak_t* b) noexcept nogil:
    """The last instant at which something of today's level is left if nothing is added."""
    return b.last + b.level // b.drain


cdef inline void leak_give_back(leak_t* b, int64_t cost, int64_t empty) noexcept nogil:
    """Take back a grant that nobody used; `empty` is what `leak_empty` told right after it.

    What has leaked since then would have leaked from others, so no more than the rest of that level
    is returned: giving back never makes room that an unused grant has not taken.
    """
    cdef int64_t left = empty - b.last
    if left <= 0:
        return
    if left < b.idle:
        left *= b.drain
        if left < cost:
            cost = left
    b.level = b.level - cost if b.level > cost else 0


cdef inline double leak_level(const leak_t* b) noexcept nogil:
    """The level in permits."""
    return <double>b.level / <double>b.permit
