"""The meters of the limiters of `pacing`. Included by `_bucket.pyx`."""

# Nanoseconds ahead, at most, so that no sum overflows.
cdef double FARTHEST = 3e18


@cython.no_gc_clear
cdef class Pace(Line):
    """A meter whose permits fall due one interval after the other, and the line of those who wait for theirs.

    The next tick is the instant `whole + part`, so that no fraction of a nanosecond is lost on the way. Nobody
    overtakes here: who finds somebody in the line joins it.
    """
    cdef double interval          # ns
    cdef int64_t whole
    cdef double part              # 0 to 1
    cdef int64_t most             # permits that may pass at once
    cdef bint breached            # everybody passes
    cdef bint closed              # nobody passes

    cdef inline int64_t tick(self) noexcept:
        """The first whole nanosecond that is not before the next tick."""
        return self.whole + (self.part > 0.0)

    cdef inline void move(self, double intervals) noexcept:
        cdef double sum = self.part + min(intervals * self.interval, FARTHEST)
        cdef int64_t whole = <int64_t>sum
        if <double>whole > sum:
            whole -= 1
        self.whole += whole
        self.part = sum - <double>whole

    cdef inline void begin(self, int64_t now) noexcept:
        """Let the next tick be one interval away."""
        cdef int64_t whole = <int64_t>self.interval
        self.whole = now + whole
        self.part = self.interval - <double>whole

    cdef inline double passed_by(self, int64_t now) noexcept:
        """How many ticks there were until `now`, which is not before the next one."""
        return <double><int64_t>min((<double>(now - self.whole) - self.part) / self.interval, FARTHEST) + 1.0

    cdef inline int64_t in_intervals(self, double intervals) noexcept:
        """The instant so many intervals after the next tick."""
        return self.whole + <int64_t>min(ceil(self.part + intervals * self.interval), FARTHEST)

    cdef bint step(self, int64_t now) noexcept:
        """Let a caller pass whom nobody precedes, if the meter allows it."""
        return False

    cdef int64_t after(self, Py_ssize_t ahead, int64_t now) noexcept:
        """When somebody behind `ahead` others will be served."""
        return NEVER

    cdef int restart(self) except -1:
        """Be as new."""
        return 0

    cdef int resume(self, int64_t now) except -1:
        """Note that a caller who waited runs on."""
        return 0

    cdef int enter(self, int64_t weight, str name, int64_t now, bint waits) except -2:
        if self.breached:
            return 1
        self.renew()
        return not self.closed and self.waiting == 0 and self.step(now)

    cdef int64_t foresee(self, Waiter last, int64_t weight, int64_t now) except -1:
        cdef void* place = self.first
        cdef Py_ssize_t ahead = 0
        while place != NULL and place != <void*>last:
            ahead += 1
            place = (<Waiter>place).later
        return now if self.breached else max(self.after(ahead, now), now)

    def _configure(self, double interval, int64_t most):
        """Set the interval (ns) and how many permits may pass at once; those who wait are planned anew."""
        with cython.critical_section(self):
            self.renew()
            if 0.0 < self.interval != interval:
                self.rescale(interval)
            self.interval = interval
            self.most = most
            # As in AsyncLimiter.plan: lateness that no burst bridges costs a part of the rate.
            self.haste = <int64_t>min(interval / 4.0, <double>LEAD) if self.bridge() < HASTY else 0
            self.replan()

    cdef int rescale(self, double interval) noexcept:
        """Let the tick before the next one stay where it was, as the interval changes."""
        self.move(-1.0)
        self.interval = interval
        self.move(1.0)
        return 0

    cdef double bridge(self) noexcept:
        """Nanoseconds that a late tick can make up for."""
        return <double>(self.most - 1) * self.interval

    def _cancel(self):
        """Send away all who wait."""
        cdef Waiter waiter
        cdef list waiters = []
        with cython.critical_section(self):
            self.renew()
            while self.waiting:
                waiter = <Waiter>self.first
                waiter.block = False
                self.unlink(waiter, LOST)
                self.let_go(waiter)
                waiters.append(waiter)
            self.plan(0)
        here = running_loop()
        for waiter in waiters:
            if waiter.ticket is None:
                call_wake(waiter, here)
                continue
            loop = waiter.ticket.timer.loop_ref()
            try:
                if loop is here:
                    waiter.future.cancel()
                else:
                    loop.call_soon_threadsafe(waiter.future.cancel)
            except Exception:  # its loop is closed or gone
                pass

    def _breach(self):
        """Let everybody pass from now on."""
        cdef int64_t now
        with cython.critical_section(self):
            self.renew()
            self.breached = True
            self.closed = False
            while self.waiting:
                now = self.now()
                self.release(now, SLICE)
            self.plan(0)
            self.restart()

    def _close(self):
        """Let nobody pass from now on."""
        self.closed = not self.breached
        self._cancel()

    def _is_open(self):
        """Whether everybody passes, and whether nobody does."""
        return self.breached, self.closed

    def _reset(self):
        """Send away all who wait, and be as new."""
        self._cancel()
        with cython.critical_section(self):
            self.breached = self.closed = False
            self.cleared += 1
            self.restart()


@cython.final
@cython.no_gc_clear
cdef class Ticks(Pace):
    """The meter of `pacing.Limiter`: one permit a tick; those of ticks that came late are given together.

    It is locked by a caller who passes, until a tick that finds nobody waiting. That tick is not waited for by a timer:
    the next caller sees that it has been.
    """
    cdef bint locked
    cdef int64_t credit           # permits of the last tick that are left

    cdef int restart(self) except -1:
        self.locked = False
        self.credit = 0
        return 0

    cdef bint step(self, int64_t now) noexcept:
        if self.locked and now < self.tick():
            return False
        self.locked = True
        self.credit = 0
        self.begin(now)
        return True

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        return self.tick() if self.locked and not self.credit and not self.breached else now

    cdef int64_t charge(self, int64_t weight, str name, int64_t now) except? -1:
        self.credit = max(self.credit - 1, 0)
        return now

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        if self.locked:
            self.credit = min(self.credit + 1, self.most)
            self.settle()
        return 0

    cdef inline int settle(self) noexcept:
        """Unlock if permits are left and nobody waits for them."""
        if self.credit and self.waiting == 0:
            self.locked = False
            self.credit = 0
        return 0

    cdef Py_ssize_t release(self, int64_t now, Py_ssize_t budget) except -1:
        cdef Py_ssize_t woken
        cdef double ticks
        # Once: what waits longer than a burst's worth of ticks waits for the next ones.
        if self.locked and not self.credit and not self.breached and self.waiting and now >= self.tick():
            ticks = self.passed_by(now)
            self.move(ticks)
            self.credit = <int64_t>min(ticks, <double>self.most)
        woken = Line.release(self, now, budget)
        self.settle()
        return woken

    cdef int64_t after(self, Py_ssize_t ahead, int64_t now) noexcept:
        return self.in_intervals(<double>(ahead - self.credit)) if self.locked and self.credit <= ahead else now


@cython.final
@cython.no_gc_clear
cdef class Spacing(Pace):
    """The meter of `StrictLimiter`: an interval at least between two calls, counted from when the first runs on."""
    cdef int64_t last             # call; `whole` is when the next may be
    cdef int64_t before           # the call before the last
    cdef int64_t lag              # from a grant until the call runs on, a moving average (ns)
    cdef bint expected            # the last call has been granted, and not run on yet

    def __cinit__(self, *args, **kwargs):
        self.restart()

    cdef int restart(self) except -1:
        self.last = self.before = self.whole = UNKNOWN
        self.part = 0.0
        self.expected = False
        return 0

    cdef inline void called(self, int64_t now) noexcept:
        self.last = now
        self.expected = False
        self.begin(now)

    cdef bint step(self, int64_t now) noexcept:
        if now < self.tick():
            return False
        self.before = self.last
        self.called(now)
        return True

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        return now if self.breached else self.tick() + (self.lag if self.expected else 0)

    cdef int64_t charge(self, int64_t weight, str name, int64_t now) except? -1:
        if not self.breached:
            self.before = self.last
            self.called(now)
            self.expected = True
        return now

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        if instant == self.last:
            self.last = self.before
            if self.last == UNKNOWN:
                self.restart()
            else:
                self.begin(self.last)
        return 0

    cdef int resume(self, int64_t now) except -1:
        # The timer stays as it is: to set it takes time, which would come between this instant and the call.
        if self.expected and self.clock is None:
            self.lag += (min(max(now - self.last, 0), <int64_t>self.interval) - self.lag) // 8
        self.expected = False
        if now > self.last != UNKNOWN and not self.breached:  # unless it is as new since the grant
            self.called(now)
            if self.clock is not None and self.waiting:  # another clock's timers need not be spared
                self.plan(now)
        return 0

    cdef int64_t after(self, Py_ssize_t ahead, int64_t now) noexcept:
        return self.in_intervals(<double>ahead)

    cdef int rescale(self, double interval) noexcept:
        self.interval = interval
        if self.last != UNKNOWN:
            self.begin(self.last)
        return 0

    cdef double bridge(self) noexcept:
        return 0.0


@cython.final
@cython.no_gc_clear
cdef class Drips(Pace):
    """The meter of `LeakyBucketLimiter`: a level of whole permits, `most` of them at most, that sinks by one a tick."""
    cdef int64_t level
    cdef int64_t since            # when it rose from 0

    cdef int restart(self) except -1:
        self.level = 0
        return 0

    cdef inline void drain(self, int64_t now) noexcept:
        cdef double ticks
        if self.level and now >= self.tick():
            ticks = self.passed_by(now)
            self.move(ticks)
            self.level = <int64_t>max(<double>self.level - ticks, 0.0)

    cdef bint step(self, int64_t now) noexcept:
        self.drain(now)
        if self.level >= self.most:
            return False
        if self.level == 0:
            self.begin(now)
        self.rise(now)
        return True

    cdef inline void rise(self, int64_t now) noexcept:
        if self.level == 0:
            self.since = now
        self.level += 1

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        if self.breached:
            return now
        self.drain(now)
        return now if self.level < self.most else self.in_intervals(<double>(self.level - self.most))

    cdef int64_t charge(self, int64_t weight, str name, int64_t now) except? -1:
        if not self.breached:
            self.rise(now)
        return now

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        # If the bucket was empty since, the permit has gone.
        if self.level and self.since <= instant:
            self.level -= 1
        return 0

    cdef int64_t after(self, Py_ssize_t ahead, int64_t now) noexcept:
        self.drain(now)
        ahead += self.level - self.most
        return self.in_intervals(<double>ahead) if ahead >= 0 else now


(<TypeSlots*>Pace).tp_clear = (<TypeSlots*>Ticks).tp_clear = <void*>line_clear
(<TypeSlots*>Spacing).tp_clear = (<TypeSlots*>Drips).tp_clear = <void*>line_clear
