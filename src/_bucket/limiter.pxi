"""The limiter. Included by `_bucket.pyx`."""


def leave(exc_type=None, exc=None, tb=None, limiter=None):
    """Leave `async with`: there is nothing to do. (Called through the class it is given four arguments.)"""
    return READY


@cython.no_gc_clear
cdef class AsyncLimiter:
    """AsyncLimiter(max_rate, time_period=60, *, burst=None, fair=False)\n--\n
    Limit how often code runs: a leaky bucket that asyncio tasks wait at.

    Up to `burst` permits pass at once; from then on `max_rate` per `time_period`. In any window of w seconds at
    most `burst + w * max_rate / time_period` permits are given.

    Arguments:
        max_rate: permits per time_period; positive, at most 1e12.
        time_period: seconds; 1e-9 to 1e9.
        burst: permits that may pass at once; positive, default max_rate. With burst=1 permits are spaced evenly.
        fair: strictly first come, first served. By default smaller amounts go first, then first come, and
            a newcomer that fits passes; but nobody is passed by more than one burst's worth of permits in total.

    Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.

    Use it as `async with limiter:`, as `await limiter.acquire(amount)`, or as `@limiter` on an async function.
    One limiter may serve several event loops and plain threads (`try_acquire`) at once.

    Source of the algorithm: the continuous-state leaky bucket of ITU-T I.371, annex A (GCRA).
    """
    cdef leak_t leak
    cdef int64_t one              # cost of one permit; more than the bucket holds while a statement stands
    cdef Py_ssize_t waiting
    cdef LoopTimer timer          # of the loop that the limiter met first: its clock is the limiter's
    cdef bint fair_
    cdef bint odd_clock           # the statements' instants are not of the monotonic clock
    cdef double limit             # burst
    cdef hold_t* hold             # statements; NULL before the first
    cdef heap_t queue             # waiters by cost, then by arrival; each holds a reference
    cdef void* oldest             # waiters by arrival
    cdef void* newest
    # What later arrivals took while the oldest waits. Each waiter holds a share in `passed`; what has passed a
    # waiter is the sum of the shares from it to the newest, so that every change is O(1).
    cdef int64_t overtaken
    cdef double queued            # cost of all who wait
    cdef int64_t arrivals
    cdef int64_t configurations   # changes of rate or burst so far
    cdef long generation
    cdef long plans               # how many were made: Python code in the midst of one may make the next
    cdef list links               # one Link per loop that has waited here
    cdef object max_rate_
    cdef object time_period_
    cdef object burst_            # as given; None follows max_rate
    cdef tuple asked              # max_rate and burst as given, where `sync` has lowered them; else None
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.timer = UNBOUND
        self.leak.last = NEVER
        self.limit = -1.0
        self.links = []

    def __init__(self, max_rate, time_period=60, *, burst=None, fair=False):
        if not isinstance(fair, bool):
            raise TypeError(f"fair must be a bool, got {fair!r}")
        if self.waiting:
            raise RuntimeError(f"{self!r} cannot be set up anew while tasks wait")
        self.configure(max_rate, time_period, burst)
        self.asked = None
        self.fair_ = fair

    def __dealloc__(self):
        heap_clear(&self.queue)
        PyMem_RawFree(self.hold)

    def acquire(self, amount=1, *, bint block=True, timeout=None):
        """Take permits, waiting until there is room.

        Arguments:
            amount: permits, 0 to burst; a fraction is allowed, 0 is free.
            block: False raises LimitReached at once where there is no room.
            timeout: seconds to wait at most, 0 or more; None waits as long as it takes.

        Returns an awaitable of None; nothing is taken before it is awaited, nor if it fails or is cancelled. In a
        queue, where the burst allows it, a permit may be given up to 20 ms after it is due, together with others.

        Raises ValueError (amount can never fit, or out of range), TypeError, LimitReached (block=False), or
        AcquireTimeout, a TimeoutError, at once where the queue is known to be longer than timeout. The last two
        carry `retry_after`, seconds.
        """
        cdef Acquire awaitable = new_acquire()
        awaitable.limiter = self
        awaitable.amount = amount
        awaitable.timeout = timeout
        awaitable.block = block
        return awaitable

    def try_acquire(self, amount=1):
        """Take permits if there is room now, and say whether; never waits. For any thread.

        Raises ValueError if amount is negative or exceeds burst, TypeError if it is no number.
        """
        cdef int decision = self.decide_one() if amount is ONE else -1
        if decision < 0:
            decision = self.decide(self.cost_of(amount, "try_acquire"), True, False)
        return decision == 1

    def has_capacity(self, amount=1):
        """Tell whether the bucket has room for `amount` permits now, whoever waits; takes nothing.

        False for more than the burst, as in aiolimiter. Raises ValueError if amount is negative, TypeError if it is
        no number.
        """
        cdef double value = amount_of(amount)
        cdef int64_t now
        if value > self.limit:
            self.check_configured()
            return False
        with cython.critical_section(self):
            now = clock_ns()
            if self.one != MOST and (self.timer.intact(now) or self.timer.renew(now)):
                leak_advance(&self.leak, now)
                return leak_fits(&self.leak, leak_cost(&self.leak, value))
        self.bind()
        with cython.critical_section(self):
            self.advance()
            return self.fits(leak_cost(&self.leak, value))

    def wait_time(self, amount=1):
        """Seconds until `amount` permits would be admitted, behind those who wait; 0.0 if now. Takes nothing.

        Raises ValueError if amount is negative or exceeds burst, TypeError if it is no number.
        """
        cdef int64_t cost = self.cost_of(amount, "wait_time")
        with cython.critical_section(self):
            return 0.0 if self.decide(cost, False, False) else seconds(self.estimate(cost))

    def pause_until(self, when):
        """Admit nobody before the instant `when`, as a 429 with Retry-After asks for. From any thread.

        Arguments:
            when: seconds, by the running loop's clock, or by `time.monotonic()` outside a loop; at most 1e9 from now.

        Those who wait go on waiting, in order. It never shortens a pause; `resume` does. When it is over, the bucket
        has room for one permit, and the next come at the rate: no burst. A copy of the limiter is not paused.

        Raises ValueError or TypeError if `when` is no such number.
        """
        cdef double instant = _arguments.number("when", when)
        self.check_configured()
        self.bind()
        statement_pause(self, instant)

    def resume(self):
        """End the pause, as if its time had come, and forget what `sync` was told is left. From any thread."""
        self.check_configured()
        self.bind()
        statement_resume(self)

    def drain(self):
        """Give up what room there is: the next permits come at the rate. From any thread."""
        self.check_configured()
        self.bind()
        statement_leave(self, 0.0, -1.0)

    def sync(self, *, limit=None, remaining=None, reset=None):
        """State what a server allows, for those who read its headers themselves. From any thread.

        Arguments:
            limit: permits per time_period; positive. Neither max_rate nor burst is more, until the next `limit`, or
                until they are set. It never raises them above what they were set to.
            remaining: permits left now, 0 or more.
            reset: seconds until there are more, 0 to 1e9. It says nothing without `remaining`.

        With `reset`, at most `remaining` permits are admitted until then; with 0 remaining, that is a pause. Without,
        the bucket has room for no more than `remaining` now. Every statement is obeyed until its own reset, so one that
        comes late raises nothing. None says nothing.

        Raises ValueError or TypeError, naming argument, value and bound, for what makes no sense.
        """
        stated = _arguments.stated(limit, remaining, reset)
        self.check_configured()
        self.bind()
        if limit is not None:
            statement_obey(self, limit)
        if remaining is not None:
            statement_leave(self, stated[0], stated[1])

    def __aenter__(self):
        if not is_plain(self):
            return self.acquire()
        if self.decide_one() == 1:
            return READY
        return self.acquire()

    # A function that does not bind: entering and leaving looks it up each time, and no bound method is made.
    __aexit__ = leave

    def __call__(self, function=None, /, *, amount=1):
        """Limit an async function: `@limiter` takes one permit per call, `@limiter(amount=2)` two."""
        return _limited(self, function, amount)

    __class_getitem__ = classmethod(GenericAlias)

    @property
    def max_rate(self):
        """Permits per time_period. Can be set while in use: waiters are planned anew, the level stays."""
        return self.max_rate_

    @max_rate.setter
    def max_rate(self, value):
        self.configure(value, self.time_period_, self.burst_ if self.asked is None else self.asked[1])
        self.asked = None

    @property
    def time_period(self):
        """Seconds. Can be set while in use: waiters are planned anew, the level stays."""
        return self.time_period_

    @time_period.setter
    def time_period(self, value):
        self.configure(self.max_rate_, value, self.burst_)

    @property
    def burst(self):
        """Permits that may pass at once. Can be set while in use; None follows max_rate."""
        return self.max_rate_ if self.burst_ is None else self.burst_

    @burst.setter
    def burst(self, value):
        self.configure(self.max_rate_, self.time_period_, value)
        if self.asked is not None:
            self.asked = self.asked[0], value

    @property
    def fair(self):
        """Whether waiters are served strictly first come, first served."""
        return self.fair_

    def __repr__(self):
        self.check_configured()
        with cython.critical_section(self):
            self.advance()
            notes = f"level: {leak_level(&self.leak):f}, waiters: {self.waiting}"
            if self.waiting:
                wait = max(statement_due(self, self.cost(self.candidate())) - self.leak.last, 0)
                notes += f", waking in {wait // 1000} \N{MICRO SIGN}s"
        return f"<{_arguments.describe(self)} at {<size_t><void*>self:#x} [{notes}]>"

    def __getstate__(self):
        self.check_configured()
        with cython.critical_section(self):
            if self.waiting:
                raise TypeError(f"cannot pickle or copy {self!r} while tasks wait")
            self.advance()
            level = leak_level(&self.leak)
        state = self.max_rate_, self.time_period_, self.burst_, self.fair_, level, getattr(self, "__dict__", None)
        return state if self.asked is None else (*state, self.asked)

    def __setstate__(self, state):
        max_rate, time_period, burst, fair, level, attributes, *asked = state
        AsyncLimiter.__init__(self, max_rate, time_period, burst=burst, fair=fair)
        self.asked = asked[0] if asked else None
        # The level as it was then; it leaks on from the first look at the clock.
        rate, period, limit = _arguments.rate(max_rate, time_period, burst)
        level = max(_arguments.number("level", level), 0.0)
        _arguments.drains(rate, period, max(limit, level))
        leak_configure(&self.leak, rate, period * SECOND, limit, level)
        self.one = self.leak.permit if self.hold == NULL or self.hold.count == 0 else MOST
        self.leak.last = NEVER
        if attributes:
            self.__dict__.update(attributes)

    def __reduce__(self):
        return _arguments.newobj, (type(self),), self.__getstate__()

    cdef int check_configured(self) except -1:
        if self.limit < 0.0:
            raise AttributeError(f"{type(self).__name__}.__init__ did not call AsyncLimiter.__init__")
        return 0

    cdef int configure(self, max_rate, time_period, burst) except -1:
        """Change rate, period or burst; keep the level, and plan those who wait anew."""
        cdef double rate, period, limit, level
        cdef void* place
        cdef Acquire waiter
        cdef list refused = []
        cdef double permit, passed = 0.0
        rate, period, limit = _arguments.rate(max_rate, time_period, burst)
        with cython.critical_section(self):
            permit = <double>self.leak.permit
            if self.limit < 0.0:
                leak_configure(&self.leak, rate, period * SECOND, limit, 0.0)
            else:
                self.advance()
                level = leak_level(&self.leak)
                _arguments.drains(rate, period, max(limit, level))
                leak_configure(&self.leak, rate, period * SECOND, limit, level)
            self.max_rate_, self.time_period_, self.burst_, self.limit = max_rate, time_period, burst, limit
            self.one = self.leak.permit if self.hold == NULL or self.hold.count == 0 else MOST
            self.configurations += 1
            self.queue.size = 0
            self.queued = 0.0
            self.overtaken = 0
            place = self.newest
            while place != NULL:
                waiter = <Acquire>place
                place = waiter.earlier
                waiter.node.key = 0 if self.fair_ else leak_cost(&self.leak, min(amount_of(waiter.amount), limit))
                heap_push(&self.queue, &waiter.node)  # there was room before
                self.queued += <double>self.cost(waiter)
                if amount_of(waiter.amount) > limit:
                    refused.append(waiter)
                # What has passed it, in the new units; more than the new burst counts no more than that.
                passed += <double>waiter.passed / permit
                waiter.passed = leak_cost(&self.leak, min(passed, limit)) - self.overtaken
                self.overtaken += waiter.passed
            for waiter in reversed(refused):
                if waiter.state == WAITING:  # a wake-up runs Python code
                    self.remove(waiter)
                    waiter.state = REFUSED
                    waiter_wake(waiter, running_loop())
            self.plan(False)
        return 0

    cdef int64_t cost_of(self, object amount, str caller) except -1:
        cdef double value = amount_of(amount)
        if value > self.limit:
            self.check_configured()
            raise ValueError(_arguments.too_much(caller, amount, self))
        return leak_cost(&self.leak, value)

    cdef inline int decide_one(self) noexcept:
        """Take one permit without meeting anybody: 1 taken, 0 no room, -1 it needs a closer look."""
        cdef int decision = -1
        cdef int64_t now
        with cython.critical_section(self):
            now = clock_ns()
            if self.waiting == 0 and (self.timer.intact(now) or self.timer.renew(now)):
                leak_advance(&self.leak, now)
                decision = leak_fits(&self.leak, self.one)
                if decision:
                    self.leak.level += self.one
                elif self.one > self.leak.capacity:
                    decision = -1
        return decision

    cdef bint decide(self, int64_t cost, bint take, bint waits) except -1:
        """Take `cost` if it is admitted now, and say so. `waits`: the caller will queue otherwise."""
        cdef bint admitted
        self.bind()
        with cython.critical_section(self):
            self.advance()
            admitted = self.admits(cost, waits)
            if admitted and take:
                self.take(cost)
                if self.newest != NULL:
                    (<Acquire>self.newest).passed += cost
                    self.overtaken += cost
        return admitted

    cdef bint admits(self, int64_t cost, bint waits) except -1:
        """Whether a newcomer is admitted now, after those in the queue whose time has come.

        These are woken at once only for a caller who will not wait: the others may leave it to the timer.
        """
        cdef Acquire first
        if self.waiting:
            if self.generation != generation:
                self.drop(False)
            elif not waits and self.release(SLICE):
                self.plan(False)
        if self.waiting and cost:
            first = self.candidate()
            if self.fair_ or self.overtaken + cost > self.leak.capacity or self.fits(self.cost(first)):
                return False
        return self.fits(cost)

    cdef inline bint fits(self, int64_t cost) noexcept:
        """Whether there is room, the clock having been looked at."""
        if not leak_fits(&self.leak, cost):
            return False
        return self.hold == NULL or hold_failing(self.hold, self.permits(cost)) == NULL

    cdef inline double permits(self, int64_t cost) noexcept:
        return <double>cost / <double>self.leak.permit

    cdef inline void take(self, int64_t cost) noexcept:
        self.leak.level += cost
        if self.hold != NULL:
            hold_take(self.hold, self.permits(cost))

    cdef bint served_within(self, int64_t cost, int64_t patience) except -1:
        """Whether a newcomer would be admitted in time even behind all who wait."""
        return statement_wait(self, self.queued + <double>cost) <= <double>patience

    cdef int64_t estimate(self, int64_t cost) except -1:
        """Nanoseconds until a newcomer of this cost would be admitted if nobody else came or left."""
        cdef double units = 0.0
        cdef int64_t passing = self.overtaken + cost
        cdef Acquire waiter
        cdef Py_ssize_t i
        for i in range(self.queue.size):
            waiter = waiter_of(self.queue.slots[i])
            if waiter.node.key <= cost or (passing > self.leak.capacity and <void*>waiter == self.oldest):
                units += <double>self.cost(waiter)
        if units == 0.0:
            return max(statement_due(self, cost) - self.leak.last, 1)
        return max(<int64_t>min(ceil(statement_wait(self, units + <double>cost)), 9e18), 1)

    cdef int enqueue(self, Acquire waiter, int64_t cost) except -1:
        """Let `waiter` wait in the running loop."""
        cdef LoopTimer timer
        cdef Link link
        loop = running_loop()
        if loop is None:
            raise RuntimeError("no running event loop")
        timer = self.timer
        if not timer.serves(loop):
            timer = loop_timer(loop)
        future = loop.create_future()
        future._asyncio_future_blocking = True
        with cython.critical_section(self):
            for link in self.links:
                if link.timer is timer:
                    break
            else:
                link = Link.__new__(Link)
                link.timer = timer
                self.links = [entry for entry in self.links if not (<Link>entry).timer.is_closed()]
                self.links.append(link)
            if self.waiting == 0:
                self.generation = generation
            waiter.node.key = 0 if self.fair_ else cost
            waiter.node.order = self.arrivals
            if not heap_push(&self.queue, &waiter.node):
                raise MemoryError
            Py_INCREF(waiter)
            self.arrivals += 1
            self.queued += <double>cost
            self.waiting += 1
            link.waiting += 1
            link.limiter = self
            waiter.earlier, waiter.later, waiter.passed = self.newest, NULL, 0
            if self.newest != NULL:
                (<Acquire>self.newest).later = <void*>waiter
            else:
                self.oldest = <void*>waiter
            self.newest = <void*>waiter
            waiter.link = link
            waiter.future = future
            waiter.state = WAITING
            if not PyObject_GC_IsTracked(<PyObject*>waiter):
                PyObject_GC_Track(<PyObject*>waiter)
            if waiter.timeout is not None:
                (<Expiry>waiter.timeout).enter(waiter)
            if waiter.state == WAITING and (self.candidate() is waiter or link.node.place < 0):
                self.plan(False)
        return 0

    cdef int remove(self, Acquire waiter) except -1:
        """Take a waiter out of the queue."""
        self.queued = self.queued - <double>self.cost(waiter) if self.waiting > 1 else 0.0
        heap_remove(&self.queue, &waiter.node)
        if waiter.earlier != NULL:
            (<Acquire>waiter.earlier).later = waiter.later
            (<Acquire>waiter.earlier).passed += waiter.passed
        else:
            self.oldest = waiter.later
            self.overtaken -= waiter.passed
        if waiter.later != NULL:
            (<Acquire>waiter.later).earlier = waiter.earlier
        else:
            self.newest = waiter.earlier
        self.waiting -= 1
        waiter.link.waiting -= 1
        Py_DECREF(waiter)
        if waiter.timeout is not None:
            (<Expiry>waiter.timeout).leave()
        return 0

    cdef inline int64_t cost(self, Acquire waiter) except -1:
        return leak_cost(&self.leak, amount_of(waiter.amount)) if self.fair_ else waiter.node.key

    cdef Acquire candidate(self):
        """Who is next: the smallest amount, unless the oldest has been passed often enough."""
        cdef Acquire first = waiter_of(heap_top(&self.queue))
        if <void*>first != self.oldest and self.overtaken + self.cost(first) > self.leak.capacity:
            return <Acquire>self.oldest
        return first

    cdef Py_ssize_t release(self, Py_ssize_t budget) except -1:
        """Grant what fits to those who are next, and wake them; say how many."""
        cdef Py_ssize_t woken = 0
        cdef Acquire waiter
        cdef int64_t cost
        here = running_loop()
        while self.waiting and woken < budget:
            waiter = self.candidate()
            cost = self.cost(waiter)
            if not self.fits(cost):
                break
            if waiter.earlier != NULL:
                (<Acquire>waiter.earlier).passed += cost
                self.overtaken += cost
            self.remove(waiter)
            self.take(cost)
            waiter.passed = leak_empty(&self.leak)
            waiter.state = GRANTED
            waiter.node.order = self.configurations
            if waiter_wake(waiter, here):
                woken += 1
            else:
                waiter.state = LOST
                self.leak.level = max(self.leak.level - cost, 0)
                if self.hold != NULL:
                    hold_give_back(self.hold, self.permits(cost))
        return woken

    cdef int plan(self, bint rests) except -1:
        """Enter the next deadline in the heap of every loop that waits here; `rests`: not before a rest, if it may."""
        cdef int64_t deadline = NEVER
        cdef int64_t haste = 0
        cdef int64_t now
        cdef int64_t cost, bridge
        cdef long plans
        cdef Link link
        if self.waiting:
            cost = self.cost(self.candidate())
            deadline = 0 if self.leak.last == NEVER else statement_due(self, cost)
            # For so long after the deadline the bucket still leaks: until then lateness costs nothing of the rate.
            bridge = (self.leak.capacity - cost) // self.leak.drain
            if bridge < HASTY:
                haste = min(cost // self.leak.drain // 4, LEAD)
            elif rests:
                deadline = max(deadline, self.leak.last + min(bridge - RESERVE, REST))
        self.plans += 1
        plans = self.plans
        for link in self.links:
            if self.plans != plans:
                break
            link.haste = haste
            if link.waiting == 0:
                link.timer.schedule(&link.node, NEVER)
                link.limiter = None
            elif link.timer is self.timer:
                link.timer.schedule(&link.node, deadline)
            else:  # another clock, perhaps
                now = link.timer.now(0)
                if self.plans == plans:
                    link.timer.schedule(&link.node, now + deadline - self.leak.last)
        return 0

    cdef inline int advance(self) except -1:
        """Let the level leak until now."""
        cdef int64_t now = clock_ns()
        if self.timer is not UNBOUND and not self.timer.intact(now):
            now = self.timer.now(UNKNOWN)
        if now != UNKNOWN:
            if self.hold != NULL and now >= self.hold.opens:
                statement_open(self, now)
            leak_advance(&self.leak, now)
        return 0

    cdef int bind(self) except -1:
        """Adopt the running loop's clock if the limiter has met no loop yet, or if its loop was closed."""
        cdef LoopTimer former = self.timer
        if former is not UNBOUND and not former.is_closed():
            return 0
        loop = running_loop()
        if loop is None:
            return 0
        statement_follow(self, loop_timer(loop))
        if self.timer.has_stock_clock(clock_ns()) != (former is UNBOUND or former.method is not None):
            self.leak.last = NEVER
        if former is not UNBOUND:
            self.drop(True)
            warn(errors.REUSED_ACROSS_LOOPS, RuntimeWarning)
        return 0

    cdef int drop(self, bint closed_only) except -1:
        """Forget waiters whose loop is closed, or all where the process was forked."""
        cdef void* place
        cdef Acquire waiter
        cdef list waiters = []
        with cython.critical_section(self):
            place = self.oldest
            while place != NULL:
                waiters.append(<Acquire>place)
                place = (<Acquire>place).later
            for waiter in waiters:
                if (not closed_only or waiter.link.timer.is_closed()) and waiter.state == WAITING:
                    self.remove(waiter)
                    waiter.state = LOST
            self.plan(False)
            if not closed_only:
                self.links = []
        return 0
