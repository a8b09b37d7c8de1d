"""The limiters of `pacing`, and the awaitable of `wait`. Included by `_bucket.pyx`."""

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
        if PyDict_GetItemWithError(self.names, ASYNCIO) != STOCK_ASYNCIO:
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
            line.renew()
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
        with cython.critical_section(line):
            if line.waiting or line.clock is not None:
                return False
            if not self.timer.intact(now):
                if not self.timer.renew(now):
                    return False
                now = clock_ns()  # that took a while
            if self.pace is None:
                return (<Window>line).take(1, NAMELESS, now) == 1
            return self.pace.breached or (not self.pace.closed and self.pace.step(now))

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
                    line.cleared += 1
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
    cdef int admitted = PENDING
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
    if admitted == PENDING:
        self.state = WAITING
    else:
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
