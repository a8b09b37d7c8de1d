"""The sliding-window log with its line. Included by `_bucket.pyx`."""


@cython.no_gc_clear
cdef class Window(Line):
    """A log of what was admitted, for any number of rates, and the line of those who wait for room in it.

    Instants and intervals are integer nanoseconds, weights whole units. An entry counts for as long as it is no more
    than one interval old. `take` and `append` are told the time; those who wait go by the clock of the line.

    Source of the algorithm: the sliding-window log, kept as run lengths in one ring.
    """
    cdef window_t log
    cdef int64_t units            # in the log
    cdef int64_t gone             # that have left it since `leak` was called last
    cdef bint leaks               # nobody will call `leak`
    cdef Py_ssize_t longest       # the rate whose window is the longest
    cdef list rates_              # the caller's own objects, one per rate
    cdef unsigned long seen       # `changes` when they were read
    cdef object failing           # of these the one that refused last; None after an admission
    cdef object last_wait         # for the caller to note what that meant

    def __cinit__(self, *args, **kwargs):
        self.seen = changes - 1
        self.log.latest = INT64_MIN

    def __dealloc__(self):
        cdef int64_t number
        for number in range(self.log.first, self.log.next):
            Py_XDECREF(<PyObject*>self.log.names[window_slot(&self.log, number)])
        window_free(&self.log)

    cdef int64_t due(self, int64_t weight, int64_t now) noexcept:
        window_advance(&self.log, now)
        return window_due(&self.log, weight)

    cdef int take(self, int64_t weight, str name, int64_t now) except -2:
        """Take `weight` if it fits now and nobody waits: 1; 0 if it does not fit, -1 if it never does."""
        window_advance(&self.log, now)
        if window_failing(&self.log, weight) >= 0:
            return self.refuse(weight, name, now)
        self.charge(weight, name, now)
        return 1

    cdef int refuse(self, int64_t weight, str name, int64_t now) except -2:
        """Refuse, as there is no room, unless it was a statement that left none, and it is over by now."""
        cdef int64_t due = window_due(&self.log, weight)
        if due > now:
            return -1 if due == NEVER else 0
        self.charge(weight, name, now)
        return 1

    cdef int64_t charge(self, int64_t weight, str name, int64_t now) except? -1:
        cdef uint32_t part
        self.expire()
        while weight > 0:
            part = <uint32_t>min(weight, HEAVIEST)
            if not window_reserve(&self.log):
                raise MemoryError
            window_append(&self.log, now, part, <void*>name)
            Py_INCREF(name)
            weight -= part
            self.units += part
        return window_last(&self.log, now)

    cdef int refund(self, int64_t weight, int64_t instant) except -1:
        cdef int64_t number = window_find(&self.log, instant)
        cdef uint32_t part
        cdef Py_ssize_t slot
        while weight > 0 and number < self.log.next:
            slot = window_slot(&self.log, number)
            if self.log.times[slot] != instant:  # those permits are forgotten already
                break
            part = <uint32_t>min(weight, <int64_t>self.log.weights[slot])
            window_take_back(&self.log, number, part)
            self.units -= part
            weight -= part
            number += 1
        number = self.log.next
        while number > self.log.first and self.log.weights[window_slot(&self.log, number - 1)] == 0:
            number -= 1
            self.forget_name(number)
        window_trim(&self.log)
        return 0

    cdef int64_t bound(self) noexcept:
        return self.log.rates[0].limit if self.log.count else 0

    cdef int64_t foresee(self, Waiter last, int64_t weight, int64_t now) except -1:
        """Play the line through: each waiter's permits join the log at the instant when they fit."""
        cdef Py_ssize_t n = 0, size = self.waiting + 1
        cdef Py_ssize_t i
        cdef int64_t instant = now
        cdef int64_t number
        cdef void* place = self.first
        cdef int64_t* instants = <int64_t*>PyMem_RawMalloc(2 * size * sizeof(int64_t))
        cdef int64_t* weights = instants + size
        cdef window_rate* rates = <window_rate*>PyMem_RawMalloc((self.log.rows + 1) * sizeof(window_rate))
        cdef window_rate* rate
        cdef int64_t units
        if instants == NULL or rates == NULL:
            PyMem_RawFree(instants)
            PyMem_RawFree(rates)
            raise MemoryError
        window_advance(&self.log, now)
        window_stated_due(&self.log, 0)
        for i in range(self.log.rows):
            rates[i] = self.log.rates[i]
        while instant != NEVER and n < size:
            units = (<Waiter>place).weight if place != NULL else weight
            for i in range(self.log.count):
                rate = &rates[i]
                if units > rate.limit:
                    instant = NEVER if place == NULL or place == <void*>last else instant  # others go without it
                    units = 0
                    break
            for i in range(self.log.count):
                rate = &rates[i]
                while units > rate.limit - rate.used:
                    number = rate.tail - self.log.next
                    if number < 0:
                        rate.used -= self.log.weights[window_slot(&self.log, rate.tail)]
                        instant = max(instant, self.log.times[window_slot(&self.log, rate.tail)] + rate.interval + 1)
                    else:
                        rate.used -= weights[number]
                        instant = max(instant, instants[number] + rate.interval + 1)
                    rate.tail += 1
            for i in range(self.log.count, self.log.rows):
                rate = &rates[i]
                if units > rate.limit - rate.used:
                    instant = max(instant, rate.until)
            for i in range(self.log.rows):
                rates[i].used += units
            instants[n], weights[n] = instant, units
            n += 1
            if place == NULL or place == <void*>last:
                break
            place = (<Waiter>place).later
        PyMem_RawFree(instants)
        PyMem_RawFree(rates)
        return instant

    cdef int forget_name(self, int64_t number) except -1:
        cdef Py_ssize_t slot = window_slot(&self.log, number)
        cdef PyObject* name = <PyObject*>self.log.names[slot]
        self.log.names[slot] = NULL
        Py_XDECREF(name)
        return 0

    cdef int64_t forget(self, int64_t number) except -1:
        """Forget the entries before `number`, and say how many units that were."""
        cdef int64_t units = 0
        while self.log.first < number:
            self.forget_name(self.log.first)
            units += window_pop(&self.log)
        window_shrink(&self.log)
        self.units -= units
        return units

    cdef inline int expire(self) except -1:
        """Forget what the longest window has been moved past."""
        cdef int64_t units
        if self.log.count and self.log.first < self.log.rates[self.longest].tail:
            units = self.forget(self.log.rates[self.longest].tail)
            if not self.leaks:
                self.gone += units
        return 0

    cdef int deny(self, int64_t weight) except -1:
        cdef Py_ssize_t rate = window_failing(&self.log, weight)
        self.failing = self.rates_[min(rate, self.log.count - 1)] if rate >= 0 else None
        self.last_wait = None
        return 0

    cdef inline int admit(self) except -1:
        if self.failing is not None:
            self.failing = self.last_wait = None
        return 0

    def _configure(self, list rates, list limits, list intervals):
        """Set the rates by rising interval (limits in units, intervals in ns); the log stays, waiters are replanned.

        What has left the longest window so far is not known any more.
        """
        cdef Py_ssize_t i
        cdef Py_ssize_t count = len(rates)
        cdef int64_t number
        cdef bint changed
        cdef window_rate* table = <window_rate*>PyMem_RawMalloc(max(count, 1) * sizeof(window_rate))
        if table == NULL:
            raise MemoryError
        try:
            for i in range(count):
                table[i].limit, table[i].interval, table[i].used = limits[i], intervals[i], 0
            with cython.critical_section(self):
                changed = count != self.log.count
                for i in range(count):
                    changed |= (
                        changed or rates[i] is not self.rates_[i] or table[i].limit != self.log.rates[i].limit
                        or table[i].interval != self.log.rates[i].interval
                    )
                if not changed:
                    return
                for i in range(count):
                    table[i].tail = self.log.first
                    for number in range(self.log.first, self.log.next):
                        table[i].used += self.log.weights[window_slot(&self.log, number)]
                if self.log.rows > self.log.count:
                    table = window_table(table, count)
                for i in range(self.log.rows - self.log.count):
                    table[count + i] = self.log.rates[self.log.count + i]
                self.log.rates, table = table, self.log.rates
                self.log.rows = count + self.log.rows - self.log.count
                self.log.count = count
                self.longest = 0
                for i in range(count):
                    if self.log.rates[i].interval > self.log.rates[self.longest].interval:
                        self.longest = i
                self.rates_ = rates
                self.last_wait = None
                if self.failing is not None and self.failing not in rates:
                    self.failing = None
                self.replan()
        finally:
            PyMem_RawFree(table)

    def _look(self, list rates):
        """Read the rates from here on: a change of one of them is noticed."""
        with cython.critical_section(self):
            for rate in rates:
                if isinstance(rate, Watched):
                    (<Watched>rate).relied = True
            self.seen = changes

    cdef int refresh(self) except -1:
        if self.seen != changes and self.rates_ is not None:
            self._refresh()
        return 0

    def _refresh(self):
        """Read the rates again if one of them may have been changed."""

    def _is_current(self):
        """Whether no object that anybody relies on was changed since the rates were read."""
        return self.seen == changes

    def _take(self, name, int64_t weight, int64_t now):
        """Admit `weight` at `now` and return None, or return the rate that has no room."""
        name = text_of(name)
        with cython.critical_section(self):
            if self.take(weight, name, now) == 1:
                self.admit()
            else:
                self.deny(weight)
                return self.failing

    def _append(self, name, int64_t weight, int64_t now):
        """Enter an item, whatever the rates say."""
        name = text_of(name)
        with cython.critical_section(self):
            if not window_reserve(&self.log):
                raise MemoryError
            window_append(&self.log, now, <uint32_t>min(weight, HEAVIEST), <void*>name)
            Py_INCREF(name)
            self.units += min(weight, HEAVIEST)

    def _rate_due(self, int64_t weight, rate, int64_t now):
        """The instant at which `rate` alone has room for `weight`, and no statement refuses it."""
        cdef int64_t due
        with cython.critical_section(self):
            window_advance(&self.log, now)
            due = window_rate_due(&self.log, &self.log.rates[self.rates_.index(rate)], weight)
            return max(due, window_stated_due(&self.log, weight))

    def _count_since(self, int64_t instant):
        """Units at or after an instant."""
        cdef int64_t number, units = 0
        with cython.critical_section(self):
            for number in range(window_find(&self.log, instant), self.log.next):
                units += self.log.weights[window_slot(&self.log, number)]
        return units

    def _leak(self, int64_t instant):
        """Forget what is older than an instant; return the units that have gone since the last call."""
        with cython.critical_section(self):
            gone = self.gone + self.forget(window_find(&self.log, instant))
            self.gone = 0
            self.replan()
            return gone

    def _unit(self, Py_ssize_t index):
        """The (name, instant, weight) that the unit at `index` belongs to, 0 the newest, -1 the oldest; or None."""
        cdef int64_t number
        cdef int64_t left = index if index >= 0 else -1 - index
        cdef int64_t step = -1 if index >= 0 else 1
        if index <= -self.units:
            return None
        with cython.critical_section(self):
            number = self.log.next - 1 if index >= 0 else self.log.first
            while self.log.first <= number < self.log.next:
                left -= self.log.weights[window_slot(&self.log, number)]
                if left < 0:
                    return self.entry(number)
                number += step
        return None

    def _entries(self):
        """All (name, instant, weight), the oldest first."""
        cdef int64_t number
        with cython.critical_section(self):
            return [
                self.entry(number) for number in range(self.log.first, self.log.next)
                if self.log.weights[window_slot(&self.log, number)]
            ]

    cdef tuple entry(self, int64_t number):
        cdef Py_ssize_t slot = window_slot(&self.log, number)
        return <object>self.log.names[slot], self.log.times[slot], self.log.weights[slot]

    def _units(self):
        """Units in the log, and those that have gone since `leak` was called last."""
        return self.units + self.gone

    def _clear(self):
        """Forget everything."""
        with cython.critical_section(self):
            self.forget(self.log.next)
            self.log.latest = INT64_MIN
            self.cleared += 1
            self.gone = 0
            self.failing = self.last_wait = None
            self.replan()

    def _wait_time(self, int64_t weight, instant):
        """Nanoseconds from an instant until a newcomer would be admitted, behind those who wait; -1 if never."""
        cdef int64_t now, due
        with cython.critical_section(self):
            self.renew()
            now = clock_ns() if instant is None else instant
            due = self.foresee(None, weight, now)
            return -1 if due == NEVER else due - now

    def _room(self, instant):
        """Units that each rate has left at an instant; None is now, by the monotonic clock."""
        cdef Py_ssize_t i
        cdef int64_t left
        with cython.critical_section(self):
            window_advance(&self.log, clock_ns() if instant is None else <int64_t>instant)
            left = window_stated_left(&self.log)
            return [
                max(min(self.log.rates[i].limit - self.log.rates[i].used, left), 0) for i in range(self.log.count)
            ]

    def _state(self, int64_t wait, int64_t left):
        """Admit at most `left` units within `wait` ns from now."""
        cdef int64_t now
        with cython.critical_section(self):
            self.renew()
            now = self.now()
            self.see(now)
            if wait <= 0:
                return
            self.log.rates = window_table(self.log.rates, self.log.count)
            if window_state(&self.log, now + wait, left) and self.waiting:
                self.plan(now)

    cdef bint see(self, int64_t now) except -1:
        """Be at `now`, and say whether there is a place for an entry."""
        if self.log.count == 0:
            raise ValueError("the bucket has no rates")
        window_advance(&self.log, now)
        return True

    def _unstate(self):
        """Forget all statements."""
        with cython.critical_section(self):
            self.log.rows = self.log.count
            self.replan()

    def _spend(self, str name, int64_t left):
        """Enter as much as if all but `left` units of what there is room for had been admitted."""
        cdef int64_t now, weight
        cdef Py_ssize_t i
        with cython.critical_section(self):
            self.renew()
            while True:
                now = self.now()
                if not self.see(now):
                    return
                weight = NEVER
                for i in range(self.log.count):
                    weight = min(weight, self.log.rates[i].limit - self.log.rates[i].used)
                weight -= left
                if weight <= 0:
                    return
                if self.claim(weight, now):
                    break
            self.charge(weight, name, now)
            window_count_stated(&self.log, -weight)  # they are of what was really admitted
            if self.waiting:
                self.plan(now)

    def _deny(self, rate, wait):
        """Note which rate refused an item, and what the caller makes of that; None and None for an admission."""
        with cython.critical_section(self):
            self.failing, self.last_wait = rate, wait

    def _denial(self):
        with cython.critical_section(self):
            return self.failing, self.last_wait

    @property
    def _leaks(self):
        return self.leaks

    @_leaks.setter
    def _leaks(self, bint leaks):
        self.leaks = leaks
        self.gone = 0


cdef window_rate* window_table(window_rate* table, Py_ssize_t count) except NULL:
    """The table of so many rates, with room for statements."""
    table = <window_rate*>PyMem_RawRealloc(table, (count + STATED) * sizeof(window_rate))
    if table == NULL:
        raise MemoryError
    return table


(<TypeSlots*>Window).tp_clear = <void*>line_clear
