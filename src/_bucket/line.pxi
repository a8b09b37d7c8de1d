"""Callers in order of arrival, threads and tasks alike. Included by `_bucket.pyx`."""


cdef enum:
    PENDING = -1    # neither admitted nor refused yet

cdef unsigned long changes = 0    # to objects that a fast path relies on
cdef object CHANGING = object()   # whose section guards the count

# Where a clock other than the monotonic one has not moved as far as was slept, so long at least (ns) to the next look.
cdef enum:
    LEAST_PAUSE = 1_000_000


cdef int note_change() except -1:
    global changes
    with cython.critical_section(CHANGING):
        changes += 1
    return 0


cdef str text_of(name):
    """A name as a string that runs no code of anybody's when it goes."""
    return name if type(name) is str else str.__str__(str(name))


cdef class Watched:
    """An object whose attributes a fast path may rely on: it notices when one is set or deleted."""
    cdef bint relied

    def __setattr__(self, str name, value):
        PyObject_GenericSetAttr(self, name, <PyObject*>value)
        if self.relied:
            note_change()

    def __delattr__(self, str name):
        PyObject_GenericSetAttr(self, name, NULL)
        if self.relied:
            note_change()

    def __reduce__(self):
        return _arguments.newobj, (type(self),), getattr(self, "__dict__", None)


@cython.no_gc_clear
cdef class Line(Watched):
    """Callers in order of arrival, from threads and event loops, and the clock by which they are served.

    A subclass is the meter that admits them: `due`, `charge`, `refund` and `foresee` are its own. Whoever wakes up
    first serves all whose time has come, so no caller depends on another thread or loop to run.

    Wherever Python code may run or a section be entered, another thread may come in between: what belongs together is
    changed before that, and what was read is read again afterwards.
    """
    cdef object clock             # None is `clock_ns`; else a callable that gives nanoseconds
    cdef Py_ssize_t waiting
    cdef void* first              # waiters by arrival; each holds a reference
    cdef void* last
    cdef int64_t passed           # units that newcomers took while the first waits
    cdef int64_t haste            # how much earlier (ns) than a deadline it is worth to wake up
    cdef list tickets             # one per loop that has waited here; replaced, never changed
    cdef long generation
    cdef long plans               # plans and arrivals: in the midst of a plan others may happen
    cdef long cleared             # how often the meter was

    def __cinit__(self, *args, **kwargs):
        self.tickets = []
        self.generation = generation

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        """The first instant at which `weight` fits, not after `now` if it does already; NEVER if it cannot."""
        return NEVER

    cdef bint claim(self, int64_t weight, int64_t now) except -1:
        """Take `weight`, which fits as `due` has just said, from what others share; False: they were faster."""
        return True

    cdef int64_t charge(self, int64_t weight, str name, int64_t now) except? -1:
        """Enter `weight`, which fits and was claimed; say which instant it carries."""
        return now

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        """Take back what was charged, carries `instant` and was not used."""
        return 0

    cdef int64_t foresee(self, Waiter last, int64_t weight, int64_t now) except -1:
        """When a newcomer is served if nobody else comes or leaves; or `last`, who waits already."""
        return NEVER

    cdef int64_t bound(self) noexcept:
        """How many units may pass the first waiter."""
        return 0

    cdef int refresh(self) except -1:
        """Take note of what was changed since."""
        return 0

    cdef inline int64_t now(self) except? -1:
        return clock_ns() if self.clock is None else self.clock()

    cdef inline int renew(self) except -1:
        """In a forked child, forget the parent's waiters."""
        if self.waiting and self.generation != generation:
            self.drop(False)
        return 0

    cdef int enter(self, int64_t weight, str name, int64_t now, bint waits) except -2:
        """Take `weight` if it is admitted now: 1; 0 if not, -1 if never. `waits`: the caller will queue otherwise."""
        cdef int64_t due
        if self.waiting:
            self.renew()
            if self.release(now, SLICE):
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
        self.plans += 1
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

    cdef void unlink(self, Waiter waiter, char state) noexcept:
        """Take a waiter out of the line; then `let_go` of it."""
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
        waiter.state = state
        if waiter.ticket is not None:
            waiter.ticket.waiting -= 1

    cdef int let_go(self, Waiter waiter) except -1:
        try:
            call_forget_patience(waiter)
        finally:
            Py_DECREF(waiter)
        return 0

    cdef Py_ssize_t release(self, int64_t now, Py_ssize_t budget) except -1:
        """Serve those whose time has come, in order, and wake them; say how many."""
        cdef Py_ssize_t woken = 0
        cdef Waiter waiter
        cdef int64_t due
        self.refresh()
        here = running_loop()
        while self.waiting and woken < budget:
            waiter = <Waiter>self.first
            due = self.due(waiter.weight, now)
            if now < due < NEVER:
                break
            if due != NEVER and not self.claim(waiter.weight, now):
                continue
            if due == NEVER:  # since a change of rates
                self.turn_away(waiter, REFUSED, here)
                continue
            waiter.granted = self.charge(waiter.weight, waiter.name, now)
            waiter.cleared = self.cleared
            self.unlink(waiter, GRANTED)
            self.let_go(waiter)
            if call_wake(waiter, here):
                woken += 1
            elif waiter.state == GRANTED:
                waiter.state = LOST
                self.give_back(waiter)
        return woken

    cdef int turn_away(self, Waiter waiter, char state, object here) except -1:
        self.unlink(waiter, state)
        self.let_go(waiter)
        call_wake(waiter, here)
        return 0

    cdef int give_back(self, Waiter waiter) except -1:
        """Take back what a waiter was granted and has not used."""
        if waiter.cleared == self.cleared:
            self.refund(waiter.weight, waiter.granted)
        return 0

    cdef list waiters(self):
        cdef void* place = self.first
        cdef list waiters = []
        while place != NULL:
            waiters.append(<Waiter>place)
            place = (<Waiter>place).later
        return waiters

    cdef int replan(self) except -1:
        """Serve, turn away or plan anew those who wait, after a change."""
        cdef int64_t now
        cdef Waiter waiter
        with cython.critical_section(self):
            self.renew()
            if not self.waiting:
                return 0
            now = self.now()
            here = running_loop()
            for waiter in self.waiters():
                if waiter.state == WAITING and self.due(waiter.weight, now) == NEVER:
                    self.turn_away(waiter, REFUSED, here)
            self.release(now, SLICE)
            self.plan(now)
        return 0

    cdef int plan(self, int64_t now) except -1:
        """See that whoever is first is served in time: by every loop that waits here, or by its own thread."""
        cdef int64_t deadline
        cdef Waiter waiter
        cdef Ticket ticket
        cdef long plans
        cdef bint again = False
        while True:
            deadline = NEVER
            if self.waiting:
                waiter = <Waiter>self.first
                deadline = max(self.due(waiter.weight, now), now)
                if waiter.ticket is None and deadline < waiter.sleeps_until:
                    waiter.sleeps_until = deadline
                    call_wake(waiter, None)
            self.plans += 1
            plans = self.plans
            for ticket in self.tickets:
                if ticket.waiting == 0:
                    ticket.line = None
                    ticket.timer.schedule(&ticket.node, NEVER)
                elif not (again and ticket.node.place >= 0 and ticket.node.key == deadline):
                    ticket.haste = self.haste
                    ticket.timer.schedule(&ticket.node, self.instant_in(ticket.timer, deadline, now))
                if self.plans != plans:
                    break
            else:
                return 0
            again = True  # in the midst of this plan another was made, which this one may have undone

    cdef int64_t instant_in(self, LoopTimer timer, int64_t deadline, int64_t now) except? -1:
        """An instant of this line's clock by the clock of a loop."""
        if deadline == NEVER or (self.clock is None and timer.has_stock_clock(now)):
            return deadline
        return timer.now(0) + max(deadline - now, 0)

    cdef Ticket ticket(self, LoopTimer timer):
        cdef Ticket ticket
        cdef list tickets = None, known = None
        for ticket in self.tickets:
            if ticket.timer is timer:
                return ticket
        ticket = Ticket.__new__(Ticket)
        ticket.timer = timer
        while tickets is None or self.tickets is not known:
            known = self.tickets
            tickets = [entry for entry in known if not (<Ticket>entry).timer.is_closed()]
        tickets.append(ticket)
        self.tickets = tickets
        return ticket

    cdef int drop(self, bint closed_only) except -1:
        """Forget waiters whose loop is closed, or all where the process was forked."""
        cdef Waiter waiter
        with cython.critical_section(self):
            for waiter in self.waiters():
                if not closed_only or (waiter.ticket is not None and waiter.ticket.timer.is_closed()):
                    if waiter.state == WAITING:
                        self.unlink(waiter, LOST)
                        self.let_go(waiter)
            if not closed_only:
                self.tickets = []
            self.plan(self.now() if self.waiting else 0)  # the garbage collector may have taken the clock
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
        if line is None:  # nobody waits any more, as of a moment ago
            return 0
        with cython.critical_section(line):
            now = line.now()
            woken = line.release(now, budget)
            line.plan(now)
            if woken == 0 and line.clock is not None and self.node.place >= 0:
                self.timer.schedule(&self.node, max(self.node.key, self.timer.now(0) + LEAST_PAUSE))
        return woken

    cdef int lose(self) except -1:
        cdef Line line = self.line
        return 0 if line is None else line.drop(True)


@cython.final
@cython.no_gc_clear
cdef class Patience(Event):
    """The end of one task's patience, in the deadline heap of its loop."""
    cdef Line line
    cdef Waiter waiter            # None once it has been served, or has left

    cdef Py_ssize_t serve(self, Py_ssize_t budget) except -1:
        """Turn the caller away, unless there is room for it at the last moment."""
        cdef Waiter waiter
        cdef Line line = self.line
        cdef Py_ssize_t woken = 0
        cdef int64_t now
        with cython.critical_section(line):
            self.timer.schedule(&self.node, NEVER)
            waiter = self.waiter
            if waiter is not None:
                now = line.now()
                woken = line.release(now, SLICE)
                if waiter.state == WAITING:
                    line.turn_away(waiter, EXPIRED, running_loop())
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
    """Let go of the waiters; the clock and the loops may be gone already."""
    cdef Line line = <Line>self
    cdef Waiter waiter
    cdef list waiters = line.waiters()
    for waiter in waiters:
        line.unlink(waiter, DONE)
    for waiter in waiters:
        line.let_go(waiter)
    return 0


line_traverse_fields = <int (*)(PyObject*, visitproc, void*) noexcept>(<TypeSlots*>Line).tp_traverse
(<TypeSlots*>Line).tp_traverse = <void*>line_traverse
(<TypeSlots*>Line).tp_clear = <void*>line_clear
