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
