"""What processes share: a state of a few numbers, and GCRA on it. Included by `_bucket.pyx`; see `record.pxd`."""

cdef enum:
    MICROSECOND = 1000


@cython.no_gc_clear
cdef class SharedRecord(Shared):
    """A state in a mapped file, and GCRA where that is the algorithm: for each rate the theoretical arrival time.

    Nothing is copied but for the length of one decision. Instants of the state are microseconds.

    Source of the algorithm: ITU-T I.371, annex A, the virtual scheduling algorithm.
    """
    cdef record_t record
    cdef Py_ssize_t count         # of rates
    cdef int64_t* bursts
    cdef int64_t* emissions       # microseconds from one permit to the next
    cdef int64_t* arrivals        # as seen last
    cdef int64_t asked            # the microsecond of the last look
    cdef int64_t resets           # as seen last

    cdef int attached(self) except -1:
        if self.view.len < 8 * (RECORD_LANES + 4 * RECORD_MOST):
            self._detach()
            raise ValueError("the file is too small for a record")
        self.record.words, self.record.looks = self.words, RECORD_LOOKS
        return 0

    def __dealloc__(self):
        PyMem_RawFree(self.bursts)

    def _configure(self, list rates, list limits, list intervals):
        """Set the rates by rising interval: bursts in units, and in microseconds from one permit to the next."""
        cdef Py_ssize_t i
        cdef Py_ssize_t count = len(rates)
        cdef int64_t* table = <int64_t*>PyMem_RawMalloc(3 * max(count, 1) * sizeof(int64_t))
        if table == NULL:
            raise MemoryError
        try:
            for i in range(count):
                table[i], table[count + i] = limits[i], intervals[i]
            with cython.critical_section(self):
                if self.words != NULL and self.count:
                    known = [(self.bursts[i], self.emissions[i]) for i in range(self.count)]
                    if known != list(zip(limits, intervals)):
                        self.seen = changes - 1  # to be read again, and refused again
                        raise ValueError(f"rates of shared memory cannot be changed, got {rates!r}")
                self.bursts, table = table, self.bursts
                self.emissions, self.arrivals = self.bursts + count, self.bursts + 2 * count
                self.count = count
                if self.log.rates == NULL:  # of the log that all lines have, only the statements are used
                    self.log.rates = <window_rate*>PyMem_RawMalloc(STATED * sizeof(window_rate))
                    if self.log.rates == NULL:
                        raise MemoryError
                self.rates_ = rates
                self.failing = self.last_wait = None
        finally:
            PyMem_RawFree(table)

    cdef int read(self) except -1:
        """Read the record. Raises ValueError if there is no file, or none that makes sense."""
        cdef int64_t resets
        self.check_open()
        if not record_read(&self.record):
            raise errors.SharedMemoryError("the shared memory is damaged: its record is torn")
        resets = shared_load(&self.words[RECORD_RESETS])  # after the record: see `record_count_reset`
        if resets != self.resets:
            self.resets = resets
            self.cleared += 1
        return 0

    cdef bint replace(self, int64_t* numbers, int64_t count, bint floats=False) except -1:
        cdef int done = record_replace(&self.record, numbers, count, floats)
        if done == RECORD_DAMAGED:
            raise errors.SharedMemoryError("the shared memory is damaged: turns that nobody has taken")
        return done == RECORD_DONE

    # GCRA, and what the line asks.

    cdef int look(self, int64_t now) except -1:
        cdef Py_ssize_t i
        cdef bint known
        self.read()
        window_advance(&self.log, now)
        self.asked = now // MICROSECOND
        known = self.record.count == self.count
        for i in range(self.count):
            self.arrivals[i] = self.record.numbers[i] if known else 0
        return 0

    cdef int64_t due_as_seen(self, int64_t weight) noexcept:
        cdef int64_t due = INT64_MIN
        cdef int64_t stated = window_stated_due(&self.log, weight) if self.log.rows else INT64_MIN
        cdef Py_ssize_t i
        for i in range(self.count):
            if weight > self.bursts[i]:
                return NEVER
            due = max(due, self.arrivals[i] - (self.bursts[i] - weight) * self.emissions[i])
        return max(max(due, -MOST // MICROSECOND) * MICROSECOND, stated)

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        try:
            self.look(now)
        except BaseException:
            return NEVER  # those who wait are turned away; newcomers see the error
        return self.due_as_seen(weight)

    cdef bint claim(self, int64_t weight, int64_t now) except -1:
        cdef int64_t[RECORD_MOST] numbers
        cdef Py_ssize_t i
        for i in range(self.count):
            numbers[i] = max(self.arrivals[i], self.asked) + weight * self.emissions[i]
        if not self.replace(numbers, self.count):
            return False
        window_count_stated(&self.log, weight)
        return True

    cdef int64_t charge(self, int64_t weight, str name, int64_t now) except? -1:
        return self.asked * MICROSECOND

    cdef int take(self, int64_t weight, str name, int64_t now) except -2:
        cdef int64_t due
        while True:
            self.look(now)
            due = self.due_as_seen(weight)
            if due > now:
                return -1 if due == NEVER else 0
            if self.claim(weight, now):
                return 1

    cdef int enter(self, int64_t weight, str name, int64_t now, bint waits) except -2:
        self.look(now)
        return Line.enter(self, weight, name, now, waits)

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        """Take back `weight`, but for what has leaked since: had it not been taken, nothing would have leaked then."""
        cdef int64_t[RECORD_MOST] numbers
        cdef int64_t spent
        cdef long cleared = self.cleared
        cdef Py_ssize_t i
        while True:
            self.look(self.now())
            if self.cleared != cleared:
                return 0
            spent = max(self.asked - instant // MICROSECOND, 0)
            for i in range(self.count):
                numbers[i] = self.arrivals[i] - max(weight * self.emissions[i] - spent, 0)
            if self.replace(numbers, self.count):
                return 0

    cdef int64_t bound(self) noexcept:
        return self.bursts[0] if self.count else 0

    cdef int64_t foresee(self, Waiter last, int64_t weight, int64_t now) except -1:
        """Play the line through: each waiter's permits are taken at the instant when they fit."""
        cdef void* place = self.first
        cdef int64_t due, units
        cdef int64_t instant, taken = 0
        cdef Py_ssize_t i
        self.look(now)
        instant = now
        while True:
            units = (<Waiter>place).weight if place != NULL else weight
            due = self.due_as_seen(units)
            if due != NEVER:  # others go without it
                instant = max(instant, due)
                for i in range(self.count):
                    self.arrivals[i] = max(self.arrivals[i], instant // MICROSECOND) + units * self.emissions[i]
                window_count_stated(&self.log, units)
                taken += units
            if place == NULL or place == <void*>last:
                window_count_stated(&self.log, -taken)
                return NEVER if due == NEVER else instant
            place = (<Waiter>place).later

    cdef int deny(self, int64_t weight) except -1:
        cdef Py_ssize_t i
        self.failing = self.last_wait = None
        for i in range(self.count):
            if weight > self.bursts[i] or self.arrivals[i] - (self.bursts[i] - weight) * self.emissions[i] > self.asked:
                self.failing = self.rates_[i]
                return 0
        self.failing = self.rates_[-1] if self.rates_ else None  # a statement
        return 0

    def _rate_due(self, int64_t weight, rate, int64_t now):
        """The instant at which `weight` fits."""
        with cython.critical_section(self):
            self.look(now)
            return self.due_as_seen(weight)

    def _room(self, instant):
        """Units that each rate has left at an instant; None is now, by the monotonic clock."""
        cdef Py_ssize_t i
        cdef int64_t left
        with cython.critical_section(self):
            self.look(clock_ns() if instant is None else <int64_t>instant)
            left = window_stated_left(&self.log)
            return [max(min(self.room_of(i), left), 0) for i in range(self.count)]

    cdef int64_t room_of(self, Py_ssize_t i) noexcept:
        """Units that a rate has left, as seen last."""
        cdef int64_t owed = max(self.arrivals[i] - self.asked, 0)
        return self.bursts[i] - (owed + self.emissions[i] - 1) // self.emissions[i]

    cdef bint see(self, int64_t now) except -1:
        self.look(now)
        return True

    def _spend(self, str name, int64_t left):
        """Take as much as if all but `left` units of what there is room for had been admitted."""
        cdef int64_t now, weight
        cdef Py_ssize_t i
        with cython.critical_section(self):
            self.renew()
            while True:
                now = self.now()
                self.look(now)
                weight = NEVER
                for i in range(self.count):
                    weight = min(weight, self.room_of(i))
                weight -= left
                if weight <= 0:
                    return
                if self.claim(weight, now):
                    break
            window_count_stated(&self.log, -weight)  # they are of what was really admitted
            if self.waiting:
                self.plan(now)

    def _leak(self, int64_t instant):
        """Nothing: a state has nothing to forget."""
        return 0

    def _clear(self):
        """Forget what is owed, in all processes."""
        with cython.critical_section(self):
            self.check_open()
            record_count_reset(&self.record)
            self.read()
            while not self.replace(NULL, 0):
                self.read()
            self.read()
            self.failing = self.last_wait = None
            self.replan()

    # Any other algorithm.

    def _read(self):
        """The state as (what to tell `_replace`, its numbers)."""
        cdef int64_t floats = 0
        cdef Py_ssize_t i, count
        cdef int64_t* numbers = self.record.numbers
        with cython.critical_section(self):
            self.read()
            count = self.record.count
            if count and self.record.which >> RECORD_FLOATS & 1:
                count -= 1
                floats = numbers[count]
            return self.record.which, tuple([
                (<double*>numbers)[i] if floats >> i & 1 else numbers[i] for i in range(count)
            ])

    def _replace(self, int64_t seen, tuple state):
        """Replace the state, if it is what `_read` saw; say whether.

        Raises ValueError for more numbers than fit, or greater ones; TypeError for what is no number.
        """
        cdef int64_t[RECORD_MOST] numbers
        cdef int64_t floats = 0
        cdef Py_ssize_t i
        cdef Py_ssize_t count = len(state)
        if count > RECORD_MOST - 2:
            raise ValueError(f"a state in shared memory must have at most {RECORD_MOST - 2} numbers, got {count}")
        for i, number in enumerate(state):
            if isinstance(number, float):
                (<double*>numbers)[i] = number
                floats |= <int64_t>1 << i
            elif not isinstance(number, int):
                raise TypeError(f"a state in shared memory must be of numbers, got {number!r}")
            else:
                try:
                    numbers[i] = number
                except OverflowError:
                    raise ValueError(
                        f"a number of a state in shared memory must fit into 64 bits, got {number!r}"
                    ) from None
        if floats:
            numbers[count] = floats
            count += 1
        with cython.critical_section(self):
            self.read()
            if self.record.which != seen:
                return False
            return self.replace(numbers, count, floats != 0)


(<TypeSlots*>SharedRecord).tp_clear = <void*>line_clear
