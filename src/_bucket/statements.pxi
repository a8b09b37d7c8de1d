"""What an AsyncLimiter has been told by those who read a server's headers. Included by `_bucket.pyx`.

While a statement stands, `one` is more than the bucket holds: no call is decided without a look at the statements, and
where there are none no call pays for them.
"""


cdef int statement_make_room(AsyncLimiter self) except -1:
    """Have a place for statements."""
    if self.hold == NULL:
        self.hold = <hold_t*>PyMem_RawMalloc(sizeof(hold_t))
        if self.hold == NULL:
            raise MemoryError
        hold_clear(self.hold)
    return 0


cdef int statement_enter(AsyncLimiter self, int64_t until, double left) except -1:
    """Obey one statement more; the caller has looked at the clock, and plans."""
    if until > self.leak.last and hold_state(self.hold, until, left):
        self.odd_clock = self.timer is not UNBOUND and not self.timer.has_stock_clock(clock_ns())
        self.one = MOST
    return 0


cdef inline int64_t statement_floor(AsyncLimiter self) noexcept:
    """The least level of a bucket that somebody may have waited at: room for one, so that no burst follows."""
    return max(self.leak.capacity - self.leak.permit, 0)


cdef int statement_open(AsyncLimiter self, int64_t now) except -1:
    """Forget the statements that are over at `now`."""
    cdef int64_t until
    while self.hold.count and now >= self.hold.entries[0].until:
        until = self.hold.entries[0].until
        if self.leak.last != NEVER and until > self.leak.last:
            leak_advance(&self.leak, until)
        if self.hold.entries[0].left < 1.0 - DUST:
            self.leak.level = max(self.leak.level, statement_floor(self))
        hold_pop(self.hold)
    if self.hold.count == 0:
        self.one = self.leak.permit
    return 0


cdef int64_t statement_due(AsyncLimiter self, int64_t cost) noexcept:
    """The first instant at which `cost` fits, as far as is known now; at or before `leak.last` if it does already."""
    cdef const hold_entry* failing = NULL
    if self.hold != NULL:
        failing = hold_failing(self.hold, self.permits(cost))
    if failing == NULL:
        return leak_due(&self.leak, cost)
    return leak_due_from(&self.leak, cost, failing.until, statement_floor(self) if failing.left < 1.0 - DUST else 0)


cdef double statement_wait(AsyncLimiter self, double units) noexcept:
    """Nanoseconds until so many units are admitted, as far as is known now."""
    cdef const hold_entry* failing = NULL
    cdef double pause = 0.0
    cdef double level = <double>self.leak.level
    if self.hold != NULL:
        failing = hold_failing(self.hold, units / <double>self.leak.permit)
    if failing != NULL:
        pause = <double>(failing.until - self.leak.last)
        level = max(level - pause * <double>self.leak.drain, 0.0)
        if failing.left < 1.0 - DUST:
            level = max(level, <double>statement_floor(self))
        units -= max(failing.left, 0.0) * <double>self.leak.permit
    return pause + max((level + units - <double>self.leak.capacity) / <double>self.leak.drain, 0.0)


cdef int statement_follow(AsyncLimiter self, LoopTimer timer) except -1:
    """Go by the clock of another loop, as the limiter's own was closed; a pause lasts as long as it would have."""
    cdef int64_t now, last = self.leak.last
    cdef bint odd
    cdef Py_ssize_t i
    self.timer = timer
    if self.hold != NULL and self.hold.count and last != NEVER:
        now = timer.now(last)
        odd = not timer.has_stock_clock(clock_ns())
        if odd or self.odd_clock:
            for i in range(self.hold.count):
                self.hold.entries[i].until += now - last
            self.hold.opens += now - last
        self.odd_clock = odd
    return 0


cdef int statement_pause(AsyncLimiter self, double when) except -1:
    """Let nobody in before `when`, seconds by the clock of the loop that runs here."""
    cdef LoopTimer here = None
    cdef int64_t now, until
    loop = running_loop()
    if loop is not None:
        here = loop_timer(loop)
    with cython.critical_section(self):
        self.advance()
        now = clock_ns() if here is None else here.now(clock_ns())
        _arguments.soon(when, now / 1e9)
        until = llrint(max(when * 1e9, -4.6e18))
        if self.leak.last == NEVER:  # a loop whose clock gives nothing
            self.leak.last = now
        if here is not self.timer:  # another clock, perhaps
            if self.timer is not UNBOUND and not self.timer.has_stock_clock(clock_ns()):
                until += self.leak.last - now
            elif here is not None and not here.has_stock_clock(clock_ns()):
                until += self.leak.last - now
        statement_make_room(self)
        statement_enter(self, until, PAUSED)
        self.plan(False)
    return 0


cdef int statement_resume(AsyncLimiter self) except -1:
    """Forget all statements, from now on."""
    with cython.critical_section(self):
        self.advance()
        if self.hold != NULL and self.hold.count:
            if self.hold.entries[0].left < 1.0 - DUST:
                self.leak.level = max(self.leak.level, statement_floor(self))
            hold_clear(self.hold)
            self.one = self.leak.permit
            self.plan(False)
    return 0


cdef int statement_leave(AsyncLimiter self, double permits, double seconds) except -1:
    """Admit no more than `permits` within `seconds`; if these are below 0, have no more room than that now."""
    cdef int64_t level
    with cython.critical_section(self):
        self.advance()
        if seconds >= 0.0:
            statement_make_room(self)
            statement_enter(self, self.leak.last + llrint(ceil(seconds * 1e9)), permits)
        else:
            level = max(self.leak.level, self.leak.capacity - leak_cost(&self.leak, min(permits, self.limit)))
            if level == self.leak.level:
                return 0
            self.leak.level = level
        # Grants that nobody has used yet are not given back: what was stated may have counted them as well as not.
        self.configurations += 1
        self.plan(False)
    return 0


cdef int statement_obey(AsyncLimiter self, object limit) except -1:
    """Let neither rate nor burst be more than what the server allows."""
    with cython.critical_section(self):
        max_rate, burst = (self.max_rate_, self.burst_) if self.asked is None else self.asked
        lowered = min(max_rate, limit), None if burst is None else min(burst, limit)
        if lowered != (self.max_rate_, self.burst_):
            self.configure(lowered[0], self.time_period_, lowered[1])
        self.asked = None if lowered == (max_rate, burst) else (max_rate, burst)
    return 0
