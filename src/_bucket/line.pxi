"""Callers in order of arrival, threads and tasks alike. Included by `_bucket.pyx`."""


cdef unsigned long changes = 0    # to objects that a fast path relies on


cdef class Watched:
    """An object whose attributes a fast path may rely on: it notices when one is set or deleted."""
    cdef bint relied

    def __setattr__(self, str name, value):
        global changes
        if self.relied:
            changes += 1
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, str name):
        global changes
        if self.relied:
            changes += 1
        PyObject_GenericSetAttr(self, name, NULL)

    def __reduce__(self):
        return _arguments.newobj, (type(self),), getattr(self, "__dict__", None)


@cython.no_gc_clear
cdef class Line(Watched):
    """Callers in order of arrival, from threads and event loops, and the clock by which they are served.

    A subclass is the meter that admits them: `due`, `charge`, `refund` and `foresee` are its own. Whoever wakes up
    first serves all whose time has come, so no caller depends on another thread or loop to run.
    """
    cdef object clock             # None is `clock_ns`; else a callable that gives nanoseconds
    cdef Py_ssize_t waiting
    cdef void* first              # waiters by arrival; each holds a reference
    cdef void* last
    cdef int64_t passed           # units that newcomers took while the first waits
    cdef int64_t haste            # how much earlier (ns) than a deadline it is worth to wake up
    cdef list tickets             # one per loop that has waited here
    cdef long generation
    cdef long plans               # how many were made: Python code in the midst of one may make the next

    def __cinit__(self, *args, **kwargs):
        self.tickets = []
        self.generation = generation

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        """The first instant at which `weight` fits, not after `now` if it does already; NEVER if it cannot."""
        return NEVER

    cdef bint claim(self, int64_t weight, int64_t now) except -1:
        """Take `weight`, which fits as `due` has just said, from what others share; False: they were faster."""
        return True

    cdef int charge(self, int64_t weight, object name, int64_t now) except -1:
        """Enter `weight`, which fits and was claimed."""
        return 0

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        """Take back what was charged at `instant` and not used."""
        return 0

    cdef int64_t foresee(self, Waiter last, int64_t weight, int64_t now) except -1:
        """When a newcomer is served if nobody else comes or leaves; or `last`, who waits already."""
        return NEVER

    cdef int64_t bound(self) noexcept:
        """How many units may pass the first waiter."""
        return 0

    cdef inline int64_t now(self) except? -1:
        return clock_ns() if self.clock is None else self.clock()

    cdef int enter(self, int64_t weight, object name, int64_t now, bint waits) except -2:
        """Take `weight` if it is admitted now: 1; 0 if not, -1 if never. `waits`: the caller will queue otherwise."""
        cdef int64_t due
        if self.waiting:
            if self.generation != generation:
                self.drop(False)
            elif self.release(now, SLICE):
                self.plan(now)
        while True:
            due = self.due(weight, now)
            if due > now:
                return -1 if due == NEVER else 0
            if self.waiting and (waits or weight > self.bound() - self.passed):
                return 0
            if self.claim(weight, now):
                break
        if self.waiting:
            self.passed += weight
        self.charge(weight, name, now)
        return 1

    cdef int enqueue(self, Waiter waiter, int64_t now) except -1:
        """Let `waiter` wait; the caller holds the section."""
        if self.waiting == 0:
            self.generation = generation
            self.passed = 0
        Py_INCREF(waiter)
        self.waiting += 1
        waiter.earlier, waiter.later = self.last, NULL
        if self.last != NULL:
            (<Waiter>self.last).later = <void*>waiter
        else:
            self.first = <void*>waiter
        self.last = <void*>waiter
        waiter.state = WAITING
        waiter.since = now
        if waiter.ticket is not None:
            waiter.ticket.waiting += 1
            waiter.ticket.line = self
        return 0

    cdef int remove(self, Waiter waiter) except -1:
        """Take a waiter out of the line."""
        if waiter.earlier != NULL:
            (<Waiter>waiter.earlier).later = waiter.later
        else:
            self.first = waiter.later
            self.passed = 0
        if waiter.later != NULL:
            (<Waiter>waiter.later).earlier = waiter.earlier
        else:
            self.last = waiter.earlier
        self.waiting -= 1
        waiter.state = LOST
        if waiter.ticket is not None:
            waiter.ticket.waiting -= 1
        if waiter.expiry is not None:
            waiter.expiry.timer.schedule(&waiter.expiry.node, NEVER)
        Py_DECREF(waiter)
        return 0

    cdef Py_ssize_t release(self, int64_t now, Py_ssize_t budget) except -1:
        """Serve those whose time has come, in order, and wake them; say how many."""
        cdef Py_ssize_t woken = 0
        cdef Waiter waiter
        cdef int64_t due
        here = running_loop()
        while self.waiting and woken < budget:
            waiter = <Waiter>self.first
            due = self.due(waiter.weight, now)
            if now < due < NEVER:
                break
            if due != NEVER and not self.claim(waiter.weight, now):
                continue
            self.remove(waiter)
            if due == NEVER:  # since a change of rates
                waiter.state = REFUSED
                call_wake(waiter, here)
                continue
            self.charge(waiter.weight, waiter.name, now)
            waiter.state = GRANTED
            waiter.granted = now
            if call_wake(waiter, here):
                woken += 1
            else:
                waiter.state = LOST
                self.refund(waiter.weight, now)
        return woken

    cdef int plan(self, int64_t now) except -1:
        """See that whoever is first is served in time: by every loop that waits here, or by its own thread."""
        cdef int64_t deadline = NEVER
        cdef Waiter waiter
        cdef Ticket ticket
        cdef long plans
        if self.waiting:
            waiter = <Waiter>self.first
            deadline = self.due(waiter.weight, now)
            if waiter.ticket is None and deadline < waiter.sleeps_until:
                waiter.sleeps_until = deadline
                call_wake(waiter, None)
        self.plans += 1
        plans = self.plans
        for ticket in self.tickets:
            if self.plans != plans:
                break
            ticket.haste = self.haste
            if ticket.waiting == 0:
                ticket.timer.schedule(&ticket.node, NEVER)
                ticket.line = None
            else:
                ticket.timer.schedule(&ticket.node, self.instant_in(ticket.timer, deadline, now))
        return 0

    cdef int64_t instant_in(self, LoopTimer timer, int64_t deadline, int64_t now) except? -1:
        """An instant of this line's clock by the clock of a loop."""
        if deadline == NEVER or (self.clock is None and timer.has_stock_clock(now)):
            return deadline
        return timer.now(0) + max(deadline - now, 0)

    cdef Ticket ticket(self, LoopTimer timer):
        cdef Ticket ticket
        for ticket in self.tickets:
            if ticket.timer is timer:
                return ticket
        ticket = Ticket.__new__(Ticket)
        ticket.timer = timer
        self.tickets = [entry for entry in self.tickets if not (<Ticket>entry).timer.is_closed()]
        self.tickets.append(ticket)
        return ticket

    cdef int drop(self, bint closed_only) except -1:
        """Forget waiters whose loop is closed, or all where the process was forked."""
        cdef void* place
        cdef Waiter waiter
        cdef list waiters = []
        with cython.critical_section(self):
            place = self.first
            while place != NULL:
                waiters.append(<Waiter>place)
                place = (<Waiter>place).later
            for waiter in waiters:
                if not closed_only or (waiter.ticket is not None and waiter.ticket.timer.is_closed()):
                    if waiter.state == WAITING:
                        self.remove(waiter)
            if closed_only:
                self.plan(self.now())
            else:  # and ask no clock: the garbage collector may have cleared it before
                self.tickets = []
        return 0


@cython.final
@cython.no_gc_clear
cdef class Ticket(Event):
    """A line's entry in the deadline heap of one loop: when the first in line is due."""
    cdef Line line                # None while nobody of this loop waits
    cdef Py_ssize_t waiting       # waiters of this loop

    cdef Py_ssize_t serve(self, Py_ssize_t budget) except -1:
        cdef Line line = self.line
        cdef Py_ssize_t woken
        cdef int64_t now
        with cython.critical_section(line):
            now = line.now()
            woken = line.release(now, budget)
            line.plan(now)
        return woken

    cdef int lose(self) except -1:
        return self.line.drop(True)


@cython.final
@cython.no_gc_clear
cdef class Patience(Event):
    """The end of one task's patience, in the deadline heap of its loop."""
    cdef void* waiter             # borrowed: in the heap only while the task waits

    cdef Py_ssize_t serve(self, Py_ssize_t budget) except -1:
        """Turn the caller away, unless there is room for it at the last moment."""
        cdef Waiter waiter = <Waiter>self.waiter
        cdef Line line = waiter.line
        cdef Py_ssize_t woken
        cdef int64_t now
        with cython.critical_section(line):
            now = line.now()
            woken = line.release(now, SLICE)
            if waiter.state == WAITING:
                line.remove(waiter)
                waiter.state = EXPIRED
                call_wake(waiter, running_loop())
            line.plan(now)
        return woken

    cdef int lose(self) except -1:
        return 0


@cython.final
@cython.no_gc_clear
cdef class Waiter:
    """A caller of a limiter: what `try_acquire_async` returns, a lazy awaitable of True or False.

    While it waits it is a node of the line. A thread waits by one of these as well; its `future` is a lock.
    """
    cdef Admission limiter
    cdef Line line
    cdef object name
    cdef object future
    cdef Ticket ticket            # None for a thread
    cdef Patience expiry          # None for a thread, or without a timeout
    cdef void* earlier            # neighbours in order of arrival; borrowed
    cdef void* later
    cdef int64_t weight
    cdef int64_t patience         # ns, NEVER without end
    cdef int64_t since            # when it began to wait
    cdef int64_t granted          # the instant that its permits carry
    cdef int64_t sleeps_until     # of a thread
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
        cdef bint admitted = False
        future = call_proceed(self, &admitted)
        if future is None:
            raise StopIteration(admitted)
        return future

    def throw(self, type, value=None, traceback=None):
        if self.state == DONE:
            raise RuntimeError("cannot reuse already awaited coroutine")
        call_abandon(self)
        raise exception(type, value, traceback)

    def close(self):
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
            if self.future.locked():
                self.future.release()
        else:
            loop = self.ticket.timer.loop_ref()
            if loop is here:
                self.future.set_result(None)
            else:
                loop.call_soon_threadsafe(self._resolve)
    except Exception:  # the future is cancelled, or its loop closed or gone
        return False
    return True


cdef int call_abandon(Waiter self) except -1:
    """Leave the line, or give back what was granted and not used."""
    cdef Line line = self.line
    cdef char state
    cdef int64_t now
    if self.state == DONE:
        return 0
    with cython.critical_section(line):
        state, self.state = self.state, DONE
        if state == WAITING:
            line.remove(self)
            self.state = DONE
        elif state == GRANTED:
            line.refund(self.weight, self.granted)
        if line.waiting:
            now = line.now()
            line.release(now, SLICE)
            line.plan(now)
    return 0


cdef object call_proceed(Waiter self, bint* admitted):
    """The next step of the coroutine: None when it returns, or the future that it waits for."""
    cdef char state = self.state
    cdef int64_t now
    if state == WAITING or state == LOST:
        if not self.future.done():
            raise RuntimeError("coroutine is being awaited already")
        call_abandon(self)  # somebody else resolved the future: ask again, with what is left of the patience
        if self.patience != NEVER:
            now = self.line.now()
            self.patience = max(self.patience - (now - self.since), 0)
        state = CREATED
    self.state = DONE
    if state == CREATED:
        return call_begin(self, admitted)
    if state == DONE:
        raise RuntimeError("cannot reuse already awaited coroutine")
    admitted[0] = state == GRANTED
    self.limiter.note(admitted[0], self.line.now() - self.since)
    return None


cdef object call_begin(Waiter self, bint* admitted):
    cdef Line line = self.line
    cdef int64_t now
    cdef int decision
    cdef bint waits = self.block and self.patience > 0
    cdef LoopTimer timer
    decision = self.limiter.decide(self.weight, self.name, waits)
    if decision == 1 or decision < 0 or not waits:
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
        with cython.critical_section(line):
            now = line.now()
            self.ticket = line.ticket(timer)
            line.enqueue(self, now)
            if not PyObject_GC_IsTracked(<PyObject*>self):
                PyObject_GC_Track(<PyObject*>self)
            if self.patience != NEVER:
                self.expiry = Patience.__new__(Patience)
                self.expiry.timer = timer
                self.expiry.waiter = <void*>self
                timer.schedule(&self.expiry.node, timer.now(0) + self.patience)
            if line.first == <void*>self or self.ticket.node.place < 0:
                line.plan(now)
    except BaseException:
        call_abandon(self)
        raise
    return future


cdef bint call_sleep(Waiter self) except -1:
    """Wait in this thread, asleep until it is served or its patience ends; say whether it was admitted."""
    cdef Line line = self.line
    cdef int64_t now, deadline, until
    cdef bint admitted
    cdef bint waits = True  # (leaving a critical section by `break` leaks a reference to its object)
    self.future = lock = _allocate_lock()
    lock.acquire()
    try:
        with cython.critical_section(line):
            now = line.now()
            line.enqueue(self, now)
            deadline = NEVER if self.patience > NEVER - now else now + self.patience
            until = self.sleeps_until = line.foresee(self, 0, now)
        while waits:
            until = min(until, deadline)
            if until > now:
                lock.acquire(True, min(until - now, LONGEST_SLEEP) / 1e9)
            with cython.critical_section(line):
                now = line.now()
                if self.state == WAITING:
                    line.release(now, SLICE)
                if self.state == WAITING and now >= deadline:
                    line.remove(self)
                    self.state = EXPIRED
                line.plan(now)
                waits = self.state == WAITING
                if waits:
                    until = self.sleeps_until = line.foresee(self, 0, now)
        admitted = self.state == GRANTED
        self.state = DONE
    except BaseException:
        call_abandon(self)
        raise
    self.limiter.note(admitted, now - self.since)
    return admitted


cdef int call_send(Waiter self, object value, PyObject** result) except -1:
    cdef bint admitted = False
    future = call_proceed(self, &admitted)
    if future is None:
        future = admitted
        Py_INCREF(future)
        result[0] = <PyObject*>future
        return PYGEN_RETURN
    Py_INCREF(future)
    result[0] = <PyObject*>future
    return PYGEN_NEXT


cdef PyObject* call_next(Waiter self) except? NULL:
    cdef bint admitted = False
    future = call_proceed(self, &admitted)
    if future is None:
        end_with(admitted)
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


cdef int (*line_traverse_fields)(PyObject*, visitproc, void*) noexcept


cdef int line_traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    """Show the garbage collector the waiters that the line holds."""
    cdef void* place = (<Line>self).first
    cdef int stop = line_traverse_fields(self, visit, arg)
    while place != NULL and not stop:
        stop = visit(<PyObject*>place, arg)
        place = (<Waiter>place).later
    return stop


cdef int line_clear(PyObject* self) noexcept:
    (<Line>self).drop(False)
    return 0


line_traverse_fields = <int (*)(PyObject*, visitproc, void*) noexcept>(<TypeSlots*>Line).tp_traverse
(<TypeSlots*>Line).tp_traverse = <void*>line_traverse
(<TypeSlots*>Line).tp_clear = <void*>line_clear
