"""The limiters' way into a window. Included by `_bucket.pyx`."""


cdef enum:
    RELIED = 6    # objects whose types a fast path looks at


cdef class Admission(Watched):
    """The way into a window for the calls that need nothing else; the rest goes to `_acquire` and its like.

    `_rely` says that the calls of this limiter come to nothing but the window, as long as none of the objects named
    there, nor its class, is changed.
    """
    cdef Window window
    cdef bint decided             # that the calls come to nothing but `window`
    cdef bint plain               # nobody has overridden `try_acquire`
    cdef unsigned long seen       # `changes` when it was decided
    cdef tuple relied_on
    cdef TypeSlots* types[RELIED]
    cdef unsigned int versions[RELIED]
    cdef Py_ssize_t count
    cdef long long admitted
    cdef long long refused
    cdef int64_t waited           # ns
    cdef Py_ssize_t pausing       # calls that wait elsewhere than in the window's line

    def _look(self):
        """The number of changes so far, to be asked for before anything is looked at that `_rely` will rely on."""
        return changes

    def _rely(self, unsigned long seen, Window window not None, clock, bint plain, *objects):
        """Decide that the calls come to nothing but `window`, by `clock` (None: the monotonic one; else ns).

        `plain`: `try_acquire` is the one defined here. `seen` is what `_look` said before the objects were looked at.
        """
        cdef Py_ssize_t i, row
        cdef int64_t shift
        cdef bint decided = seen == changes
        if len(objects) > RELIED:
            raise ValueError(f"{len(objects)} objects are more than {RELIED}")
        with cython.critical_section(self):
            self.decided, self.plain = False, plain
            for i, relied in enumerate(objects):
                if isinstance(relied, Watched) and not (<Watched>relied).relied:
                    (<Watched>relied).relied = True
                    decided = False  # it may have been changed since it was looked at
                self.types[i] = Py_TYPE(relied)
                self.versions[i] = self.types[i].tp_version_tag
                if self.versions[i] == 0:  # the type has no version: decide anew each time
                    decided = False
            self.count = len(objects)
            self.relied_on = objects
            self.seen = seen
            self.window = window
            self.decided = decided
        with cython.critical_section(window):
            if window.clock != clock:
                if window.log.rows > window.log.count:
                    shift = window.now()
                    window.clock = clock
                    shift = window.now() - shift
                    for row in range(window.log.count, window.log.rows):
                        window.log.rates[row].until += shift
                window.clock = clock
                window.log.latest = INT64_MIN  # of the other clock
                window.replan()

    cdef inline bint is_fast(self) noexcept:
        """Whether nothing has changed that the decision was based on."""
        cdef Py_ssize_t i
        if not self.decided or self.seen != changes:
            return False
        for i in range(self.count):
            if self.types[i].tp_version_tag != self.versions[i]:
                return False
        return True

    cdef inline Window path(self):
        """The window, if nothing has changed that the decision was based on; else None."""
        with cython.critical_section(self):
            return self.window if self.is_fast() else None

    def try_acquire(self, name="pyrate", weight=1, blocking=True, timeout=-1):
        """Take permits, waiting in this thread until there is room.

        Arguments:
            name: which bucket, where the limiter has several; it is noted with the permits.
            weight: permits, 0 or more; 0 is free.
            blocking: False decides at once.
            timeout: seconds to wait at most, 0 or more; -1 waits as long as it takes. Only with blocking=True.

        Returns True if they were taken; False if they were not: there is no room (blocking=False), there was none
        before the timeout ended, or there never is, as weight exceeds the limit. With an asynchronous bucket or
        factory, an awaitable of that.

        Raises ValueError (timeout), RuntimeError (a timeout with blocking=False), AssertionError (weight below 0),
        TypeError.
        """
        cdef int64_t weight_, patience
        cdef int decision
        cdef bint waits
        cdef Window window = self.path()
        if window is None or not is_plain_call(weight, blocking, timeout, &weight_, &patience):
            return self._acquire(name, weight, blocking, timeout)
        waits = blocking is True and patience > 0
        decision = self.decide(window, weight_, text_of(name), waits)
        if decision == 0 and waits:
            return self._block(name, weight, timeout)
        return decision == 1

    def try_acquire_async(self, name="pyrate", weight=1, blocking=True, timeout=-1):
        """Take permits, waiting in this task until there is room: `try_acquire` for asyncio.

        The arguments, the result and the errors are those of `try_acquire`. Nothing is taken before it is awaited, nor
        if it is cancelled.
        """
        cdef int64_t weight_, patience
        cdef Window window = self.path()
        if window is None or not is_plain_call(weight, blocking, timeout, &weight_, &patience):
            return self._acquire_async(name, weight, blocking, timeout)
        return self.waiter(window, text_of(name), weight_, blocking is True, patience)

    cdef inline Waiter waiter(self, Window window, str name, int64_t weight, bint block, int64_t patience):
        cdef Waiter waiter = new_waiter()
        waiter.limiter = self
        waiter.line = window
        waiter.name = name
        waiter.weight = weight
        waiter.patience = patience
        waiter.block = block
        waiter.state = CREATED
        return waiter

    cdef Window window_(self):
        with cython.critical_section(self):
            return self.window

    def _wait(self, name, int64_t weight, bint block, int64_t patience):
        """The awaitable of a call; patience in ns, below 0 without end."""
        return self.waiter(self.window_(), text_of(name), weight, block, patience if patience >= 0 else NEVER)

    def _decide(self, name, int64_t weight, bint waits):
        """Take `weight` if it is admitted now: 1; 0 if not, -1 if never."""
        return self.decide(self.window_(), weight, text_of(name), waits)

    cdef int decide(self, Window window, int64_t weight, str name, bint waits) except -2:
        """Take `weight` if it is admitted now: 1; 0 if not, -1 if never."""
        cdef int decision
        cdef int64_t now
        with cython.critical_section(window, self):
            now = window.now()
            decision = window.enter(weight, name, now, waits) if window.waiting else window.take(weight, name, now)
            if decision == 1:
                self.admitted += 1
                window.admit()
            else:
                window.deny(weight)
                if not waits or decision < 0:
                    self.refused += 1
        return decision

    def _sleep(self, name, int64_t weight, int64_t patience):
        """Wait in the line in this thread; patience in ns, below 0 without end. Say whether it was admitted."""
        cdef Waiter waiter = self.waiter(
            self.window_(), text_of(name), weight, True, patience if patience >= 0 else NEVER
        )
        waiter.state = DONE
        return call_sleep(waiter)

    def _note(self, bint admitted, int64_t waited):
        """Note what came of a call, and the ns that it waited."""
        self.note(admitted, waited)

    cdef int note(self, bint admitted, int64_t waited) except -1:
        with cython.critical_section(self):
            if admitted:
                self.admitted += 1
            else:
                self.refused += 1
            self.waited += max(waited, 0)
        return 0

    def _pause(self, int calls):
        """Count calls that begin to wait without a line, or end."""
        with cython.critical_section(self):
            self.pausing += calls

    def _counts(self):
        """Calls admitted, calls refused, calls that wait now, and the seconds that they waited."""
        cdef Window window = self.window_()
        cdef Py_ssize_t waiting = 0
        cdef Waiter waiter
        if window is not None:
            with cython.critical_section(window):
                window.renew()
                for waiter in window.waiters():
                    waiting += waiter.limiter is self
        with cython.critical_section(self):
            return self.admitted, self.refused, waiting + self.pausing, seconds(self.waited)


cdef inline bint is_plain_call(
    object weight, object blocking, object timeout, int64_t* weight_, int64_t* patience
) except -1:
    """Read the arguments of a call that nothing is wrong with; all others are for the slow path to judge."""
    cdef int overflow = 0
    cdef double limit
    if weight is ONE:
        weight_[0] = 1
    elif PyLong_CheckExact(weight):
        weight_[0] = PyLong_AsLongLongAndOverflow(weight, &overflow)
        if overflow or not 0 < weight_[0] <= MOST:
            return False
    else:
        return False
    if timeout is MINUS_ONE:
        patience[0] = NEVER
        return blocking is True or blocking is False
    if blocking is not True or not (PyFloat_CheckExact(timeout) or PyLong_CheckExact(timeout)):
        return False
    if PyLong_CheckExact(timeout):
        limit = <double>PyLong_AsLongLongAndOverflow(timeout, &overflow)
        if overflow:
            return False
    else:
        limit = timeout
    if not 0.0 <= limit < 4e9:
        return False
    patience[0] = <int64_t>(limit * SECOND)
    return True


@cython.final
@cython.no_gc_clear
cdef class Limited:
    """A function that acquires first at each call. What `functools.wraps` sets makes it look like the one it wraps."""
    cdef void* vectorcall
    cdef dict attributes          # right behind `vectorcall`: see below
    cdef Admission limiter
    cdef object function
    cdef object name
    cdef object weight
    cdef object __weakref__

    def __cinit__(self, Admission limiter not None, function, name, weight):
        self.vectorcall = <void*>limited_vectorcall
        self.limiter, self.function, self.name, self.weight = limiter, function, name, weight
        self.attributes = {}

    @property
    def __dict__(self):
        return self.attributes

    def __call__(self, *args, **kwargs):
        limited_enter(self)
        return self.function(*args, **kwargs)

    def __get__(self, instance, owner):
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self):
        return self.__qualname__

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return f"<limited {self.function!r}>"


cdef int limited_enter(Limited self) except -1:
    cdef Admission limiter = self.limiter
    cdef Window window = limiter.path()
    cdef int64_t weight, patience
    if (
        window is not None and limiter.plain and is_plain_call(self.weight, True, MINUS_ONE, &weight, &patience)
        and weight <= window.bound() and limiter.decide(window, weight, text_of(self.name), True) == 1
    ):
        return 0
    limiter._enter(self.name, self.weight)
    return 0


cdef object limited_vectorcall(Limited self, PyObject** args, size_t nargs, PyObject* names):
    limited_enter(self)
    return PyObject_Vectorcall(self.function, args, nargs, names)


cdef Limited _limited_function = Limited(Admission(), None, None, None)
# Calls pass their arguments through without a tuple or a dict, methods without a bound method.
(<TypeSlots*>Limited).tp_vectorcall_offset = <char*>&_limited_function.vectorcall - <char*><void*>_limited_function
(<TypeSlots*>Limited).tp_dictoffset = (<TypeSlots*>Limited).tp_vectorcall_offset + sizeof(void*)
(<TypeSlots*>Limited).tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR
