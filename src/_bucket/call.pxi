"""A caller in a line: the lazy awaitable of `try_acquire_async`, or a thread. Included by `_bucket.pyx`."""


@cython.final
@cython.no_gc_clear
cdef class Waiter:
    """A caller of a limiter: what `try_acquire_async` returns, a lazy awaitable of True or False.

    While it waits it is a node of the line. A thread waits by one of these as well; its `future` is a lock.
    """
    cdef Admission limiter        # that counts its calls, or None
    cdef Line line
    cdef str name
    cdef object future
    cdef object instead           # the coroutine that does it, if the fast path was left before this was awaited
    cdef Ticket ticket            # None for a thread
    cdef Patience expiry          # None for a thread, or without a timeout
    cdef void* earlier            # neighbours in order of arrival; borrowed
    cdef void* later
    cdef int64_t weight
    cdef int64_t patience         # ns, NEVER without end
    cdef int64_t since            # when it began to wait
    cdef int64_t granted          # the instant that its permits carry
    cdef long cleared             # `cleared` of the line then
    cdef int64_t sleeps_until     # of a thread
    cdef bint called              # of a thread: its lock is released, for it to wake up and hold it again
    cdef char state
    cdef bint block

    __name__ = "try_acquire_async"
    __qualname__ = "Limiter.try_acquire_async"
    cr_code = None
    cr_frame = None
    cr_origin = None

    @property
    def cr_await(self):
        return self.future

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
        cdef int admitted = PENDING
        future = call_proceed(self, &admitted)
        if admitted != PENDING:
            raise StopIteration(admitted == 1)
        return future

    def throw(self, type, value=None, traceback=None):
        if self.instead is not None:
            return self.instead.throw(exception(type, value, traceback))
        if self.state == DONE:
            raise RuntimeError("cannot reuse already awaited coroutine")
        call_abandon(self)
        raise exception(type, value, traceback)

    def close(self):
        if self.instead is not None:
            self.instead.close()
        call_abandon(self)

    def __repr__(self):
        return f"<coroutine object Limiter.try_acquire_async at {<size_t><void*>self:#x}>"

    def _resolve(self):
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


cdef bint call_wake(Waiter self, object here) except -1:
    """Let the caller run on; False if nobody is left to run. `here`: the loop that runs in this thread."""
    try:
        if self.ticket is None:
            if not self.called:
                self.called = True
                self.future.release()
        else:
            loop = self.ticket.timer.loop_ref()
            if loop is here:
                self.future.set_result(None)
            else:
                loop.call_soon_threadsafe(self._resolve)
    except Exception:  # the future is cancelled, or its loop closed or gone
        return False
    except BaseException:  # of a signal's handler, perhaps before the loop was told
        loop = None if self.ticket is None else self.ticket.timer.loop_ref()
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._resolve)
        raise
    return True


cdef inline int call_note(Waiter self, bint admitted, int64_t waited) except -1:
    return 0 if self.limiter is None else self.limiter.note(admitted, waited)


cdef int call_forget_patience(Waiter self) except -1:
    cdef Patience expiry = self.expiry
    if expiry is not None:
        self.expiry = expiry.waiter = None
        expiry.timer.schedule(&expiry.node, NEVER)
    return 0


cdef int call_abandon(Waiter self) except -1:
    """Leave the line, or give back what was granted and not used."""
    cdef Line line = self.line
    cdef char state
    cdef int64_t now
    if self.state == DONE and self.expiry is None:
        return 0
    with cython.critical_section(line):
        state, self.state = self.state, DONE
        if state == WAITING:
            line.unlink(self, DONE)
            line.let_go(self)
        else:
            call_forget_patience(self)
            if state == GRANTED:
                line.give_back(self)
        line.renew()
        if line.waiting:
            now = line.now()
            line.release(now, SLICE)
            line.plan(now)
        elif state == WAITING:
            line.plan(0)  # or the heap would hold the line until the deadline
    return 0


cdef object call_proceed(Waiter self, int* admitted):
    """The next step of the coroutine: give the future that it waits for, or set `admitted` when it returns."""
    cdef char state = self.state
    cdef int64_t waited = 0
    if state == CREATED:
        self.state = DONE
        return call_begin(self, admitted)
    if state == DONE:
        if self.instead is not None:
            return call_instead(self, admitted)
        raise RuntimeError("cannot reuse already awaited coroutine")
    with cython.critical_section(self.line):
        waited = self.line.now() - self.since
    if state == WAITING or state == LOST:
        if not self.future.done():
            raise RuntimeError("coroutine is being awaited already")
        call_abandon(self)  # somebody else resolved the future: ask again, with what is left of the patience
        if self.patience != NEVER:
            self.patience = max(self.patience - waited, 0)
        return call_begin(self, admitted)
    self.state = DONE
    admitted[0] = state == GRANTED
    call_note(self, admitted[0], waited)
    return None


cdef object call_instead(Waiter self, int* admitted):
    """The next step of what was called instead."""
    try:
        return self.instead.send(None)
    except StopIteration as stop:
        admitted[0] = stop.value is True
        self.instead = None
    except BaseException:
        self.instead = None
        raise


cdef object call_begin(Waiter self, int* admitted):
    cdef Line line = self.line
    cdef int64_t now
    cdef int decision
    cdef bint waits = self.block and self.patience > 0
    cdef LoopTimer timer
    if self.limiter is None:
        with cython.critical_section(line):
            decision = line.enter(self.weight, self.name, line.now(), waits)
    else:
        if not self.limiter.is_fast():  # something was changed since the call
            if not self.limiter._decide_path():
                patience = -1 if self.patience == NEVER else self.patience / 1e9
                self.instead = self.limiter._acquire_async(self.name, self.weight, bool(self.block), patience)
                return call_instead(self, admitted)
            self.line = line = self.limiter.window_()
        decision = self.limiter.decide(<Window>line, self.weight, self.name, waits)
    if decision != 0 or not waits:
        admitted[0] = decision == 1
        return None
    loop = running_loop()
    if loop is None:
        raise RuntimeError("no running event loop")
    timer = loop_timer(loop)
    future = loop.create_future()
    future._asyncio_future_blocking = True
    self.future = future
    try:
        if self.patience != NEVER:
            self.expiry = Patience.__new__(Patience)
            self.expiry.timer = timer
            self.expiry.line = line
            self.expiry.waiter = self
            timer.schedule(&self.expiry.node, timer.now(0) + self.patience)
        with cython.critical_section(line):
            now = line.now()
            self.ticket = line.ticket(timer)
            if line.due(self.weight, now) == NEVER:  # the rates were changed a moment ago
                self.state, self.since = REFUSED, now
                call_forget_patience(self)
                future.set_result(None)
            else:
                line.enqueue(self, now)
                if not PyObject_GC_IsTracked(<PyObject*>self):
                    PyObject_GC_Track(<PyObject*>self)
                if line.first == <void*>self or self.ticket.node.place < 0:
                    line.plan(now)
    except BaseException:
        call_abandon(self)
        raise
    return future


cdef bint call_sleep(Waiter self) except -1:
    """Wait in this thread, asleep until it is served or its patience ends; say whether it was admitted."""
    cdef Line line = self.line
    cdef int64_t now, until, left, pause
    cdef int64_t end = clock_ns()
    cdef bint admitted
    cdef bint woken = True
    end = NEVER if self.patience > NEVER - end else end + self.patience
    self.future = lock = _allocate_lock()
    lock.acquire()
    try:
        with cython.critical_section(line):
            now = until = line.now()
            if line.due(self.weight, now) == NEVER:  # the rates were changed a moment ago
                self.state, self.since = REFUSED, now
            else:
                line.enqueue(self, now)
                until = self.sleeps_until = line.foresee(self, 0, now)
        while self.state == WAITING:
            left = end if end == NEVER else end - clock_ns()  # the patience is of the thread, whatever the line's clock
            pause = until - now
            if not woken and line.clock is not None:
                pause = max(pause, LEAST_PAUSE)
            pause = min(pause, min(left, LONGEST_SLEEP))
            woken = pause > 0 and lock.acquire(True, pause / 1e9)
            with cython.critical_section(line):
                if woken:
                    self.called = False
                now = line.now()
                if self.state == WAITING:
                    line.release(now, SLICE)
                if self.state == WAITING and end != NEVER and clock_ns() >= end:
                    line.unlink(self, EXPIRED)
                    line.let_go(self)
                line.plan(now)
                # (Leaving a critical section by `break` leaks a reference to its object.)
                if self.state == WAITING:
                    until = self.sleeps_until = line.foresee(self, 0, now)
        admitted = self.state == GRANTED
        self.state = DONE
    except BaseException:
        call_abandon(self)
        raise
    call_note(self, admitted, now - self.since)
    return admitted


cdef int call_send(Waiter self, object value, PyObject** result) except -1:
    cdef int admitted = PENDING
    future = call_proceed(self, &admitted)
    if admitted != PENDING:
        future = admitted == 1
        Py_INCREF(future)
        result[0] = <PyObject*>future
        return PYGEN_RETURN
    Py_INCREF(future)
    result[0] = <PyObject*>future
    return PYGEN_NEXT


cdef PyObject* call_next(Waiter self) except? NULL:
    cdef int admitted = PENDING
    future = call_proceed(self, &admitted)
    if admitted != PENDING:
        end_with(admitted == 1)
        return NULL
    Py_INCREF(future)
    return <PyObject*>future


# What `await` takes the answer from where it asks tp_iternext; made once, as that takes longer than all else.
cdef list ends = [StopIteration(False), StopIteration(True)]


cdef int end_with(bint admitted) except -1:
    """Raise StopIteration: a new one only where somebody has kept the last."""
    if not RECYCLE or Py_REFCNT(<PyObject*>PyList_GET_ITEM(ends, admitted)) > 1:
        ends[admitted] = StopIteration(admitted)
    end = ends[admitted]
    Py_INCREF(StopIteration)
    Py_INCREF(end)
    PyErr_Restore(<PyObject*>StopIteration, <PyObject*>end, NULL)
    return 0


cdef spare_t spare_waiters


cdef inline Waiter new_waiter():
    return <Waiter>spare_take(&spare_waiters, Waiter)


cdef int call_finish(PyObject* dying) except -1:
    cdef bint started = (<Waiter>dying).state != CREATED
    call_abandon(<Waiter>dying)
    if not started:
        warn("coroutine 'Limiter.try_acquire_async' was never awaited", RuntimeWarning)
    return 0


cdef void call_dealloc(PyObject* dying) noexcept:
    """The type's deallocator: see that nothing is left behind, then recycle or free."""
    if (<Waiter>dying).state != DONE and not spare_dies(dying, call_finish):
        return
    if RECYCLE and (<Waiter>dying).future is None:
        (<Waiter>dying).limiter = None
        (<Waiter>dying).instead = None
        (<Waiter>dying).line = None
        (<Waiter>dying).name = None
        if spare_keep(&spare_waiters, dying):
            return
    spare_waiters.free(dying)


spare_waiters.free = <void (*)(PyObject*) noexcept>(<TypeSlots*>Waiter).tp_dealloc
(<TypeSlots*>Waiter).tp_dealloc = <void*>call_dealloc
(<TypeSlots*>Waiter).tp_as_async.am_send = <void*>call_send
(<TypeSlots*>Waiter).tp_flags |= HAVE_AM_SEND
(<TypeSlots*>Waiter).tp_iternext = <void*>call_next
