"""What processes share: the sliding-window log. Included by `_bucket.pyx`; the algorithm is in `shared.pxd`."""

cdef str NO_NAME = ""


@cython.no_gc_clear
cdef class Shared(Window):
    """A meter in a mapped file that other processes map too. Those who wait here wait in one line per process.

    `_attach` gives it the file.
    """
    cdef int64_t* words           # the file; NULL where there is none
    cdef Py_buffer view
    cdef TypeSlots* kind          # of the algorithm
    cdef unsigned int version     # of that type
    cdef bint direct              # `put` comes to nothing but a decision of the meter, as long as `seen` says so

    METHOD = "cas"

    def _attach(self, mapping):
        """Use a mapped file; the rates are set already.

        Raises NotImplementedError where the processor cannot swap 16 bytes at once.
        """
        if not SHARED_CAS:
            raise NotImplementedError(
                "this processor has no compare-and-swap of 16 bytes; AIOLIMITER_FAST_NO_EXTENSIONS=1 uses a file lock"
            )
        self._detach()
        PyObject_GetBuffer(mapping, &self.view, PyBUF_WRITABLE)
        self.words = <int64_t*>self.view.buf
        self.attached()

    cdef int attached(self) except -1:
        return 0

    def _detach(self):
        """Let go of the file."""
        with cython.critical_section(self):
            if self.words != NULL:
                self.words = NULL
                PyBuffer_Release(&self.view)

    def __dealloc__(self):
        if self.words != NULL:
            PyBuffer_Release(&self.view)

    cdef inline int check_open(self) except -1:
        if self.words == NULL:
            raise ValueError("the bucket is closed")
        return 0

    cdef int64_t due_as_seen(self, int64_t weight) noexcept:
        """`due`, by what was seen last."""
        return NEVER

    def _decide_directly(self, algorithm):
        """Let `put` decide without a look at the algorithm, until it, the rates or the bucket change; None: do not."""
        self.kind = Py_TYPE(algorithm)
        self.version = self.kind.tp_version_tag
        self.direct = algorithm is not None and self.version != 0
        self.relied = True
        if isinstance(algorithm, Watched):
            (<Watched>algorithm).relied = True

    def put(self, item):
        """Store the item if every rate has room for its weight at its timestamp, and say whether."""
        cdef int64_t weight, now
        cdef int odd = 0
        if self.direct and self.seen == changes and self.kind.tp_version_tag == self.version:
            units, timestamp = item.weight, item.timestamp
            if PyLong_CheckExact(units) and PyLong_CheckExact(timestamp):
                weight = PyLong_AsLongLongAndOverflow(units, &odd)
                if not odd and 0 < weight <= MOST:
                    now = PyLong_AsLongLongAndOverflow(timestamp, &odd)
                    if not odd and -MOST // MILLISECOND <= now <= MOST // MILLISECOND:
                        return self.put_at(weight, now * MILLISECOND)
        return self._put_slowly(item)

    def _put_at(self, int64_t weight, int64_t now):
        """Take `weight` at `now` and say whether, or note which rate refused it and until when."""
        return self.put_at(weight, now)

    cdef bint put_at(self, int64_t weight, int64_t now) except -1:
        cdef int64_t due
        with cython.critical_section(self):
            if self.take(weight, None, now) == 1:
                self.admit()
                return True
            self.deny(weight)
            due = self.due_as_seen(weight)
            if due != NEVER:
                self.last_wait = (weight, (due + MILLISECOND - 1) // MILLISECOND)
        return False

    def _take(self, name, int64_t weight, int64_t now):
        """Admit `weight` at `now` and return None, or return the rate that has no room."""
        with cython.critical_section(self):
            if self.take(weight, None, now) == 1:
                self.admit()
                return None
            self.deny(weight)
            return self.failing

    def _append(self, name, int64_t weight, int64_t now):
        """Not here: what others have entered has to be seen first."""
        raise NotImplementedError("an item enters shared memory only by a decision")


@cython.no_gc_clear
cdef class SharedWindow(Shared):
    """A window log in a file, with a copy of what counts in this process. Names are not kept."""
    cdef shared_t shared
    cdef long forks               # `generation` when it last began anew
    cdef int64_t claimed          # the instant that what was claimed last carries
    cdef int64_t counted          # the statements have counted the entries before that number

    cdef int attached(self) except -1:
        cdef int64_t shift = 0
        while SHARED_SLOTS * 8 + (<int64_t>16 << (shift + 1)) <= self.view.len:
            shift += 1
        self.shared.shift, self.shared.room = shift, <int64_t>1 << shift
        self.shared.words = self.words
        self.shared.looked, self.shared.stale = INT64_MIN, True
        self.counted = 0
        return 0

    cdef inline int64_t span(self) noexcept:
        return self.log.rates[self.longest].interval

    cdef int note(self, int64_t time, int64_t weight) except -1:
        """Copy an entry."""
        cdef uint32_t part
        while weight > 0:
            part = <uint32_t>min(weight, HEAVIEST)
            if not window_reserve(&self.log):
                raise MemoryError
            self.log.latest = INT64_MIN  # it is as old as it is, whatever this process has seen since
            window_append(&self.log, time, part, <void*>NO_NAME)
            Py_INCREF(NO_NAME)
            weight -= part
            self.units += part
        return 0

    cdef int look(self, int64_t now) except -1:
        """See what others have entered. Raises ValueError if there is no file, or none that makes sense."""
        cdef int64_t time, weight
        cdef int step
        self.check_open()
        try:
            if self.forks != generation:  # who knows what another thread was doing when this process was forked
                self.forks = generation
                self.shared.stale = True
            step = 0 if shared_is_current(&self.shared, now, self.span()) else -1
            while True:
                if step < 0:
                    self.forget(self.log.next)
                    if not shared_begin(&self.shared, now, self.span()):
                        raise errors.SharedMemoryError("the shared memory is damaged: no entry where one must be")
                step = shared_next(&self.shared, &time, &weight)
                if step == 0:
                    break
                if step > 0:
                    self.note(time, weight)
                    if self.log.rows > self.log.count:
                        self.count_for_statements(weight)
        except BaseException:
            self.shared.stale = True
            raise
        self.shared.looked = max(now, self.shared.last, self.shared.looked)
        window_advance(&self.log, self.shared.looked)
        self.expire()
        return 0

    cdef int count_for_statements(self, int64_t weight) except -1:
        """See that they count the entry that was noted last once, however often it is read."""
        if self.shared.next <= self.counted:
            window_count_stated(&self.log, -weight)
        self.counted = max(self.counted, self.shared.next)
        return 0

    cdef bint see(self, int64_t now) except -1:
        self.look(now)
        self.counted = self.shared.next
        return self.slot_due() == 0

    cdef int64_t due_as_seen(self, int64_t weight) noexcept:
        return max(window_due(&self.log, weight), self.slot_due())

    cdef inline int64_t slot_due(self) noexcept:
        """When there is a slot for the next entry; 0 if there is one now."""
        if shared_is_full(&self.shared, self.span()):
            return self.shared.old_time + self.span() + 1
        return 0

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        try:
            self.look(now)
        except BaseException:
            return NEVER  # those who wait are turned away; newcomers see the error
        return self.due_as_seen(weight)

    cdef bint claim(self, int64_t weight, int64_t now) except -1:
        if not shared_append(&self.shared, weight):
            return False
        self.claimed = self.shared.last
        try:
            self.note(self.claimed, weight)
            if self.log.rows > self.log.count:
                self.counted = self.shared.next
        except BaseException:
            self.shared.stale = True
            raise
        return True

    cdef int enter(self, int64_t weight, str name, int64_t now, bint waits) except -2:
        self.look(now)
        return Line.enter(self, weight, name, now, waits)

    cdef int take(self, int64_t weight, str name, int64_t now) except -2:
        cdef int64_t due
        while True:
            self.look(now)
            due = self.due_as_seen(weight)
            if due > now:
                return -1 if due == NEVER else 0
            if self.claim(weight, now):
                return 1

    cdef int64_t charge(self, int64_t weight, str name, int64_t now) except? -1:
        return self.claimed

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        self.look(instant)
        shared_give_back(&self.shared, instant, weight)
        return 0

    cdef int64_t foresee(self, Waiter last, int64_t weight, int64_t now) except -1:
        self.look(now)
        return max(Window.foresee(self, last, weight, now), self.slot_due())

    cdef int deny(self, int64_t weight) except -1:
        Window.deny(self, weight)
        if self.failing is None:  # the ring is full
            self.failing = self.rates_[-1]
        return 0

    def _configure(self, list rates, list limits, list intervals):
        """Set the rates by rising interval. Raises ValueError for others than the file was made for."""
        cdef Py_ssize_t i
        if self.words != NULL:
            known = [(self.log.rates[i].limit, self.log.rates[i].interval) for i in range(self.log.count)]
            if known != list(zip(limits, intervals)):
                self.seen = changes - 1  # to be read again, and refused again
                raise ValueError(f"rates of shared memory cannot be changed, got {rates!r}")
        Window._configure(self, rates, limits, intervals)

    def _seen(self, int64_t now):
        """See what others have entered; return how much was seen."""
        with cython.critical_section(self):
            self.look(now)
            return self.shared.next

    def _append_after(self, int64_t seen, int64_t weight, int64_t now):
        """Enter an item, if nothing was entered since so much was seen at `now`.

        Returns 0 if it was, -1 if something else was, or the instant when there is a slot.
        """
        cdef int64_t due
        with cython.critical_section(self):
            self.check_open()
            if self.shared.next != seen:
                return -1
            due = self.slot_due()
            return due if due > 0 else self.claim(weight, now) - 1

    def _units(self):
        """Units in the ring that nobody has leaked, whether they count still or not."""
        cdef int64_t number
        with cython.critical_section(self):
            self.look(max(self.shared.looked, -MOST))  # whatever the time
            number = shared_first(&self.shared)
            return shared_units(&self.shared, &number, INT64_MAX)

    def _leak(self, int64_t instant):
        """Tell no more of what is older than an instant, in any process; return its units."""
        cdef int64_t number, units
        with cython.critical_section(self):
            self.look(max(self.shared.looked, -MOST))  # whatever the time
            number = shared_first(&self.shared)
            units = shared_units(&self.shared, &number, instant)
            shared_raise(&self.shared, SHARED_LEAKED, number)
            return units

    def _unit(self, Py_ssize_t index):
        """The (name, instant, weight) that the unit at `index` belongs to, 0 the newest, -1 the oldest; or None."""
        self._seen(self.now())
        return Window._unit(self, index)

    def _entries(self):
        """All (name, instant, weight) in the longest window, the oldest first."""
        self._seen(self.now())
        return Window._entries(self)

    def _rate_due(self, int64_t weight, rate, int64_t now):
        """The instant at which `weight` fits."""
        with cython.critical_section(self):
            self.look(now)
            return self.due_as_seen(weight)

    def _room(self, instant):
        """Units that each rate has left at an instant; None is now, by the monotonic clock."""
        self._seen(clock_ns() if instant is None else instant)
        return Window._room(self, instant)

    def _clear(self):
        """Forget everything, in all processes."""
        with cython.critical_section(self):
            self.look(self.now())
            shared_raise(&self.shared, SHARED_FLOOR, self.shared.next)
            self.cleared += 1
            self.failing = self.last_wait = None
            self.replan()


(<TypeSlots*>Shared).tp_clear = (<TypeSlots*>SharedWindow).tp_clear = <void*>line_clear
