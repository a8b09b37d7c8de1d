"""The limiters of `pacing`: their meters, and the awaitable of `wait`. Included by `_bucket.pyx`."""

# Nanoseconds ahead, at most, so that no sum overflows.
cdef double FARTHEST = 3e18


cdef inline int disown(Line line) except -1:
    """Forget those who wait in the parent of a forked process."""
    return line.drop(False) if line.waiting and line.generation != generation else 0


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

    cdef int enter(self, int64_t weight, object name, int64_t now, bint waits) except -2:
        if self.breached:
            return 1
        disown(self)
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
        cdef int64_t now
        with cython.critical_section(self):
            disown(self)
            if 0.0 < self.interval != interval:
                self.rescale(interval)
            self.interval = interval
            self.most = most
            # As in AsyncLimiter.plan: lateness that no burst bridges costs a part of the rate.
            self.haste = <int64_t>min(interval / 4.0, <double>LEAD) if self.bridge() < HASTY else 0
            if self.waiting:
                now = self.now()
                self.release(now, SLICE)
                self.plan(now)

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
            disown(self)
            while self.waiting:
                waiter = <Waiter>self.first
                self.remove(waiter)
                waiter.block = False
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
            disown(self)
            self.breached = True
            self.closed = False
            while self.waiting:
                now = self.now()
                self.release(now, SLICE)
            self.plan(0)
            self.restart()

    def _close(self):
        """Let nobody pass from now on."""
        self._cancel()
        self.closed = not self.breached

    def _is_open(self):
        """Whether everybody passes, and whether nobody does."""
        return self.breached, self.closed

    def _reset(self):
        """Send away all who wait, and be as new."""
        self._cancel()
        with cython.critical_section(self):
            self.breached = self.closed = False
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

    cdef int charge(self, int64_t weight, object name, int64_t now) except -1:
        self.credit = max(self.credit - 1, 0)
        return 0

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

    cdef int charge(self, int64_t weight, object name, int64_t now) except -1:
        if not self.breached:
            self.before = self.last
            self.called(now)
            self.expected = True
        return 0

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

    cdef int charge(self, int64_t weight, object name, int64_t now) except -1:
        if not self.breached:
            self.rise(now)
        return 0

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        # If the bucket was empty since, the permit has gone.
        if self.level and self.since <= instant:
            self.level -= 1
        return 0

    cdef int64_t after(self, Py_ssize_t ahead, int64_t now) noexcept:
        self.drain(now)
        ahead += self.level - self.most
        return self.in_intervals(<double>ahead) if ahead >= 0 else now


cdef str NAMELESS = ""
cdef str ASYNCIO = "_asyncio"
cdef PyObject* STOCK_ASYNCIO = <PyObject*>_asyncio


@cython.no_gc_clear
cdef class Gate:
    """A limiter on a line: `wait` for tasks, `_sleep` for threads. Its subclass says what `_wait_elsewhere` is.

    The clock is that of the loop that it was used in last; that of threads, and of stock loops, is the monotonic one.
    """
    cdef readonly Line _line
    cdef public object _elsewhere
    cdef Pace pace                # the line, if it is one
    cdef LoopTimer timer
    cdef dict names               # the globals of the module in whose loops it waits
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.timer = UNBOUND

    def _use(self, Line line not None, dict names not None):
        """Wait in this line, unless `_asyncio` among these global names is another."""
        self._line = line
        self.pace = line if isinstance(line, Pace) else None
        self.names = names

    def wait(self):
        """Wait for this caller's turn; at once if nobody is before it and the rate allows it."""
        cdef Pass awaitable
        if self._line is None:
            self.check_open()
        if PyDict_GetItem(self.names, ASYNCIO) != STOCK_ASYNCIO:
            return self._wait_elsewhere()
        awaitable = new_pass()
        awaitable.gate = self
        return awaitable

    def _sleep(self, timeout):
        """Wait in this thread: 1 when it may go on, 0 if the timeout (seconds, or None) has passed, -1 if cancelled."""
        cdef Line line = self._line
        cdef int64_t now
        cdef int decision
        cdef Waiter waiter
        cdef int64_t patience = NEVER
        if timeout is not None:
            patience = <int64_t>(min(<double>_arguments.timeout(timeout), 4e9) * SECOND)
        self.check_open()
        with cython.critical_section(line):
            now = line.now()
            disown(line)
            if line.waiting:
                line.release(now, SLICE)  # their loops may not run
                line.plan(now)
            decision = line.enter(1, NAMELESS, now, True)
        if decision == 1:
            return 1
        if patience == 0:
            return 0
        waiter = self.waiter(patience)
        waiter.state = DONE
        if call_sleep(waiter):
            self.resume()
            return 1
        return 0 if waiter.block else -1

    def _wait_time(self):
        """Seconds until a newcomer would be served."""
        cdef Line line = self._line
        cdef int64_t now
        with cython.critical_section(line):
            now = line.now()
            return seconds(line.foresee(None, 1, now) - now)

    def _now_ns(self):
        """The time of its clock in nanoseconds."""
        return self._line.now()

    cdef inline Waiter waiter(self, int64_t patience):
        cdef Waiter waiter = new_waiter()
        waiter.line = self._line
        waiter.name = NAMELESS
        waiter.weight = 1
        waiter.patience = patience
        waiter.block = True
        waiter.state = CREATED
        return waiter

    cdef inline int resume(self) except -1:
        cdef Pace pace = self.pace
        if pace is not None:
            with cython.critical_section(pace):
                pace.resume(pace.now())
        return 0

    cdef int check_open(self) except -1:
        if self._line is None:
            raise AttributeError(f"{type(self).__name__}.__init__ was not called")
        if self.pace is not None and self.pace.closed:
            raise RuntimeError(f"{self!r} is closed; reset() opens it again")
        return 0

    cdef inline bint pass_at_once(self) except -1:
        """Let a caller pass without meeting anybody, if nothing needs a closer look."""
        cdef Line line = self._line
        cdef int64_t now = clock_ns()
        cdef bint passes = False
        with cython.critical_section(line):
            if line.waiting == 0 and line.clock is None and (self.timer.intact(now) or self.timer.renew(now)):
                if self.pace is not None:
                    passes = self.pace.breached or (not self.pace.closed and self.pace.step(now))
                else:
                    passes = (<Window>line).take(1, NAMELESS, now) == 1
        return passes

    cdef int bind(self) except -1:
        """Go by the clock of the running loop."""
        cdef Line line = self._line
        cdef LoopTimer timer = self.timer
        loop = running_loop()
        if loop is None:
            return 0
        if not timer.serves(loop):
            timer = loop_timer(loop)
        clock = None
        if not timer.has_stock_clock(clock_ns()):
            clock = timer._now_ns if timer is not self.timer or line.clock is None else line.clock
        with cython.critical_section(line):
            if line.waiting == 0:
                self.timer = timer
                if clock is not line.clock:  # instants of one clock say nothing about another
                    line.clock = clock
                    if self.pace is not None:
                        self.pace.restart()
                    else:
                        (<Window>line)._clear()
        return 0


@cython.final
@cython.no_gc_clear
cdef class Pass:
    """The awaitable that `wait` returns; a `collections.abc.Coroutine`. Nothing is decided before it is awaited."""
    cdef Gate gate
    cdef Waiter waiter            # None unless it has to wait
    cdef char state               # CREATED, WAITING or DONE

    __name__ = "wait"
    __qualname__ = "Limiter.wait"
    cr_code = None
    cr_frame = None
    cr_origin = None

    @property
    def cr_await(self):
        return None if self.waiter is None else self.waiter.future

    @property
    def cr_running(self):
        return False

    @property
    def cr_suspended(self):
        return self.state == WAITING

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        future = pass_proceed(self)
        if future is None:
            raise StopIteration
        return future

    def throw(self, type, value=None, traceback=None):
        if self.state == DONE:
            raise RuntimeError("cannot reuse already awaited coroutine")
        pass_abandon(self)
        raise exception(type, value, traceback)

    def close(self):
        pass_abandon(self)

    def __repr__(self):
        return f"<coroutine object {type(self.gate).__name__}.wait at {<size_t><void*>self:#x}>"


cdef int pass_abandon(Pass self) except -1:
    self.state = DONE
    if self.waiter is not None:
        call_abandon(self.waiter)
    return 0


cdef object pass_proceed(Pass self):
    """The next step of the coroutine: None when it returns, or the future that it waits for."""
    cdef bint admitted = False
    cdef char state = self.state
    self.state = DONE
    if state == CREATED:
        self.gate.check_open()
        if self.gate.pass_at_once():
            return None
        self.gate.bind()
        self.waiter = self.gate.waiter(NEVER)
        if not PyObject_GC_IsTracked(<PyObject*>self):
            PyObject_GC_Track(<PyObject*>self)
    elif state == DONE:
        raise RuntimeError("cannot reuse already awaited coroutine")
    future = call_proceed(self.waiter, &admitted)
    if future is not None:
        self.state = WAITING
    elif state == WAITING:
        self.gate.resume()
    return future


cdef spare_t spare_passes


cdef inline Pass new_pass():
    cdef Pass awaitable = <Pass>spare_take(&spare_passes, Pass)
    awaitable.state = CREATED
    return awaitable


cdef int pass_finish(PyObject* dying) except -1:
    cdef bint started = (<Pass>dying).state != CREATED
    pass_abandon(<Pass>dying)
    if not started:
        warn(f"coroutine '{type((<Pass>dying).gate).__name__}.wait' was never awaited", RuntimeWarning)
    return 0


cdef void pass_dealloc(PyObject* dying) noexcept:
    """The type's deallocator: see that nothing is left behind, then recycle or free."""
    if (<Pass>dying).state != DONE and not spare_dies(dying, pass_finish):
        return
    if RECYCLE and (<Pass>dying).waiter is None:
        (<Pass>dying).gate = None
        if spare_keep(&spare_passes, dying):
            return
    spare_passes.free(dying)


cdef inline bint pass_now(Pass self) except -1:
    if self.state == CREATED and self.gate.pass_at_once():
        self.state = DONE
        return True
    return False


cdef int pass_send(Pass self, object value, PyObject** result) except -1:
    future = None if pass_now(self) else pass_proceed(self)
    Py_INCREF(future)
    result[0] = <PyObject*>future
    return PYGEN_RETURN if future is None else PYGEN_NEXT


cdef PyObject* pass_next(Pass self) except? NULL:
    if pass_now(self):
        return NULL
    future = pass_proceed(self)
    if future is None:
        return NULL
    Py_INCREF(future)
    return <PyObject*>future


spare_passes.free = <void (*)(PyObject*) noexcept>(<TypeSlots*>Pass).tp_dealloc
(<TypeSlots*>Pass).tp_dealloc = <void*>pass_dealloc
(<TypeSlots*>Pass).tp_as_async.am_send = <void*>pass_send
(<TypeSlots*>Pass).tp_flags |= HAVE_AM_SEND
(<TypeSlots*>Pass).tp_iternext = <void*>pass_next
(<TypeSlots*>Pace).tp_clear = (<TypeSlots*>Ticks).tp_clear = <void*>line_clear
(<TypeSlots*>Spacing).tp_clear = (<TypeSlots*>Drips).tp_clear = <void*>line_clear
