"""Event loops: clock, deadlines and the timer. Included by `_bucket.pyx`."""


@cython.final
@cython.no_gc_clear
cdef class TimerFd:
    """The timer descriptor of one loop. Only the loop's own reader table holds it, so it is closed with the loop."""
    cdef int fd
    cdef LoopTimer timer

    def __cinit__(self, LoopTimer timer not None):
        self.fd = timerfd_open()
        if self.fd < 0:
            raise OSError("no timer descriptor")
        self.timer = timer
        timer.fd = self.fd
        timer.closes_with_fd = True

    def __dealloc__(self):
        if self.fd >= 0:
            timerfd_close(self.fd)
            self.timer.fd = -1
            if self.timer.closes_with_fd:
                self.timer.closed = True
                self.timer.lose_all()

    def fileno(self):
        return self.fd

    def disown(self):
        """Say that the loop refused this descriptor, so that its end is not the end of the loop."""
        self.timer.closes_with_fd = False

    def __call__(self):
        self.timer.learn(clock_ns())
        self.timer.fire()


@cython.final
@cython.no_gc_clear
cdef class Alarm:
    """The callback of one `loop.call_at`; if it goes before it was called, so has the loop."""
    cdef LoopTimer timer

    def __cinit__(self, LoopTimer timer not None):
        self.timer = timer

    def __dealloc__(self):
        if self.timer is not None and self.timer.is_closed_quietly():
            self.timer.lose_all()

    def __call__(self):
        timer, self.timer = self.timer, None
        if timer is not None:
            (<LoopTimer>timer).armed = NEVER
            (<LoopTimer>timer).fire()


@cython.no_gc_clear
cdef class Event:
    """An entry in a loop's heap of deadlines, which holds it as long as it is there."""
    cdef heap_node node
    cdef LoopTimer timer
    cdef int64_t haste            # how much earlier (ns) it is worth to wake up, so as not to be late

    def __cinit__(self):
        self.node.place = -1

    cdef Py_ssize_t serve(self, Py_ssize_t budget) except -1:
        """Do what is due now; say how many waiters that woke, `budget` at most."""
        raise NotImplementedError

    cdef int lose(self) except -1:
        """Forget those who wait: their loop is closed."""
        raise NotImplementedError


cdef Event _event = Event()
cdef Py_ssize_t EVENT_NODE = <char*>&_event.node - <char*><void*>_event


cdef inline Event event_of(heap_node* node):
    return <Event><void*>(<char*>node - EVENT_NODE)


@cython.final
@cython.no_gc_clear
cdef class LoopTimer:
    """One event loop's clock and its heap of deadlines, served by one timer.

    Deadlines are instants of the loop's clock in nanoseconds. With a stock clock and a timer descriptor the
    timer is exact; otherwise it is one `loop.call_at`.
    """
    cdef heap_t deadlines
    cdef object loop_ref
    cdef object method            # `time` of the loop's class where that is a stock clock, else None
    cdef int64_t checked          # when the loop was last seen to have that clock
    cdef bint closed
    cdef bint closes_with_fd      # `closed` is set by the end of the descriptor, and need not be asked for
    cdef int fd
    cdef long generation
    cdef int64_t armed            # what the timer is set for
    cdef int64_t lateness         # how late the descriptor wakes the loop, a moving average (ns)
    cdef object handle            # weak reference to the pending call_at, which only the loop holds
    cdef object __weakref__

    def __cinit__(self, loop, bint stock):
        self.fd = -1
        self.armed = NEVER
        self.checked = INT64_MIN // 2
        self.generation = generation
        if loop is not None:
            self.loop_ref = _weakref(loop)
            self.method = type(loop).time if stock else None

    def __dealloc__(self):
        timer_clear(<PyObject*>self)
        heap_clear(&self.deadlines)

    cdef inline bint intact(self, int64_t now) noexcept:
        """Whether the loop is open and its clock the one that `clock_ns` reads, as of a moment ago."""
        return 0 <= now - self.checked < TRUST and not self.closed

    cdef bint is_closed(self) except -1:
        if not self.closed and not self.closes_with_fd:
            loop = self.loop_ref()
            self.closed = loop is None or loop.is_closed()
        return self.closed

    cdef bint is_closed_quietly(self) noexcept:
        return self.is_closed()

    cdef void lose_all(self) noexcept:
        """Forget all who wait in this loop, which is closed: nothing else would let go of them."""
        while True:
            event = self.first_event()
            if event is None:
                break
            self.schedule(&event.node, NEVER)
            event.lose()

    cdef Event first_event(self):
        """The event with the first deadline, or None."""
        with cython.critical_section(self):
            return None if heap_top(&self.deadlines) == NULL else event_of(heap_top(&self.deadlines))

    cdef int take_out(self, heap_node* node) except -1:
        heap_remove(&self.deadlines, node)
        Py_DECREF(event_of(node))
        return 0

    cdef bint serves(self, loop) except -1:
        return self.loop_ref is not None and self.generation == generation and self.loop_ref() is loop

    cdef bint has_stock_clock(self, int64_t now) except -1:
        """Look whether the loop has its class's clock still: tests set a `time` of their own on the loop object."""
        if self.method is None:
            return False
        loop = self.loop_ref()
        if loop is None:
            return True
        method = loop.time
        if type(method) is MethodType:
            if method.__func__ is not self.method:
                return False
        elif type(method) is not BuiltinMethodType or method.__self__ is not loop:
            return False
        if self.closes_with_fd:
            self.checked = now
        return True

    cdef bint renew(self, int64_t now) noexcept:
        """Whether the loop is open and its clock the stock one, by a new look; False where that costs much."""
        if self.closed or not self.closes_with_fd:
            return False
        try:
            return self.has_stock_clock(now)
        except BaseException:  # whoever asks in earnest meets it again
            return False

    cdef int64_t now(self, int64_t otherwise) except? -1:
        """The loop's time, or `otherwise` where its clock gives no sensible one."""
        cdef double time
        cdef int64_t now = clock_ns()
        if self.has_stock_clock(now):
            return now
        loop = self.loop_ref()
        if loop is None:
            return otherwise
        time = loop.time() * 1e9
        # Half the range of int64, so that no sum of two instants overflows. False for NaN.
        if -4.6e18 < time < 4.6e18:
            return llrint(time)
        return otherwise

    cdef int schedule(self, heap_node* node, int64_t deadline) except -1:
        """Put or move a node to `deadline`; NEVER takes it out."""
        with cython.critical_section(self):
            if node.place < 0:
                if deadline == NEVER:
                    return 0
                node.key = deadline
                if not heap_push(&self.deadlines, node):
                    raise MemoryError
                Py_INCREF(event_of(node))
            elif deadline == NEVER:
                self.take_out(node)
            elif node.key != deadline:
                node.key = deadline
                heap_settle(&self.deadlines, node, node.place)
            return self.arm()

    cdef int arm(self) except -1:
        """Set the one timer for the first deadline."""
        cdef heap_node* first = heap_top(&self.deadlines)
        cdef int64_t deadline = first.key if first != NULL else NEVER
        cdef bint precise = self.fd >= 0 and self.has_stock_clock(self.checked)
        if precise and first != NULL:
            deadline -= self.lead(event_of(first))
        if deadline == self.armed or self.generation != generation:
            return 0
        if precise:
            self.armed = deadline
            timerfd_arm(self.fd, deadline)
        else:
            loop = self.loop_ref()
            if loop is running_loop():
                self.call_at(deadline)
            elif loop is not None and not loop.is_closed():
                try:
                    loop.call_soon_threadsafe(self._rearm)
                except RuntimeError:
                    if not loop.is_closed():  # by now
                        raise
        return 0

    def _rearm(self):
        with cython.critical_section(self):
            self.arm()

    cdef int call_at(self, int64_t deadline) except -1:
        cdef double when
        if self.fd >= 0:
            timerfd_arm(self.fd, NEVER)
        handle = None if self.handle is None else self.handle()
        self.handle = None
        self.armed = NEVER
        if handle is not None:
            handle.cancel()
        loop = self.loop_ref()
        if deadline == NEVER or loop is None or loop.is_closed():
            return 0
        when = deadline / 1e9
        if when * 1e9 < <double>deadline:
            when *= 1.0 + 2.3e-16
        if CLOCK_RESOLUTION > 1e-6 and self.has_stock_clock(self.checked):
            when += CLOCK_RESOLUTION  # where the clock ticks coarsely, loops fire up to a tick early
        self.handle = _weakref(loop.call_at(when, Alarm.__new__(Alarm, self)))
        self.armed = deadline
        return 0

    cdef inline int64_t lead(self, Event event) noexcept:
        """How long before its deadline the timer goes off for this entry."""
        return min(event.haste, self.lateness)

    cdef int learn(self, int64_t now) except -1:
        """Note how late the descriptor's wake-up was."""
        cdef int64_t late = now - self.armed
        if 0 <= late < 4 * LEAD:  # more is a loop that was busy
            self.lateness += (late - self.lateness) // 16
        self.armed = FIRED
        return 0

    cdef int fire(self) except -1:
        """Serve what is due, a slice at most, and set the timer for the rest."""
        cdef int64_t now = self.now(UNKNOWN)
        cdef Py_ssize_t budget = SLICE
        cdef Event event
        try:
            while budget > 0:
                event = self.first_event()
                if event is None:
                    break
                if event.node.key > now:
                    if not self.has_stock_clock(now) or event.node.key - now > self.lead(event):
                        break
                    while now < event.node.key:  # the timer went off early by intent; the rest is too short to sleep
                        now = clock_ns()
                budget -= 1
                budget -= event.serve(budget)
        finally:
            with cython.critical_section(self):
                self.arm()
        return 0


# Stands for the loop of a limiter that has not met one.
cdef LoopTimer UNBOUND = LoopTimer(None, False)


cdef int (*timer_traverse_fields)(PyObject*, visitproc, void*) noexcept


cdef int timer_traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    """Show the garbage collector the events that the heap holds."""
    cdef Py_ssize_t i
    cdef int stop = timer_traverse_fields(self, visit, arg)
    for i in range((<LoopTimer>self).deadlines.size):
        if stop:
            break
        stop = visit(<PyObject*>(<char*>(<LoopTimer>self).deadlines.slots[i] - EVENT_NODE), arg)
    return stop


cdef int timer_clear(PyObject* self) noexcept:
    cdef heap_node* first
    while True:
        first = heap_top(&(<LoopTimer>self).deadlines)
        if first == NULL:
            return 0
        (<LoopTimer>self).take_out(first)


timer_traverse_fields = <int (*)(PyObject*, visitproc, void*) noexcept>(<TypeSlots*>LoopTimer).tp_traverse
(<TypeSlots*>LoopTimer).tp_traverse = <void*>timer_traverse
(<TypeSlots*>LoopTimer).tp_clear = <void*>timer_clear
