"""The awaitables. Included by `_bucket.pyx`."""


@cython.final
@cython.no_gc_clear
cdef class Acquire:
    """The awaitable that `AsyncLimiter.acquire` returns; a `collections.abc.Coroutine`.

    Nothing is decided before it is awaited. With room it returns at once, without a suspension.
    """
    cdef AsyncLimiter limiter
    cdef object amount
    cdef object timeout           # as given; an Expiry once the caller waits
    cdef object future
    cdef Link link
    cdef heap_node node           # in the limiter's queue: key is the cost (0 where fair), order the arrival
    cdef void* earlier            # neighbours in order of arrival; borrowed, as a dying waiter leaves the queue
    cdef void* later
    cdef int64_t passed           # waiting: see AsyncLimiter.overtaken; granted: when its level has drained
    cdef char state
    cdef bint block

    __name__ = "acquire"
    __qualname__ = "AsyncLimiter.acquire"
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
        return self.state != CREATED and self.state != DONE

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value):
        future = acquire_proceed(self)
        if future is None:
            raise StopIteration
        return future

    def throw(self, type, value=None, traceback=None):
        if self.state == DONE:
            raise RuntimeError("cannot reuse already awaited coroutine")
        waiter_abandon(self)
        raise exception(type, value, traceback)

    def close(self):
        waiter_abandon(self)

    def __repr__(self):
        return f"<coroutine object AsyncLimiter.acquire at {<size_t><void*>self:#x}>"

    def _resolve(self):
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


cdef Acquire _waiter = Acquire.__new__(Acquire)
cdef Py_ssize_t WAITER_NODE = <char*>&_waiter.node - <char*><void*>_waiter
_waiter.state = DONE


cdef inline Acquire waiter_of(heap_node* node):
    return <Acquire><void*>(<char*>node - WAITER_NODE)


cdef bint waiter_wake(Acquire self, object here) except -1:
    """Let the waiting task run on; False if nobody is left to run. `here`: the loop that runs in this thread."""
    loop = self.link.timer.loop_ref()
    try:
        if loop is here:
            self.future.set_result(None)
        else:
            loop.call_soon_threadsafe(self._resolve)
    except Exception:  # the future is cancelled, or its loop closed or gone
        return False
    return True


cdef int waiter_abandon(Acquire self) except -1:
    """Leave the queue, or give back what was granted and not used."""
    cdef AsyncLimiter limiter = self.limiter
    cdef int64_t cost
    cdef char state
    with cython.critical_section(limiter):
        state = self.state
        self.state = DONE
        if state == WAITING:
            limiter.remove(self)
            limiter.plan(False)
        elif state == GRANTED and self.node.order == limiter.configurations:  # else its level was another's measure
            limiter.advance()
            cost = leak_cost(&limiter.leak, amount_of(self.amount))
            leak_give_back(&limiter.leak, cost, self.passed)
            if limiter.hold != NULL:
                hold_give_back(limiter.hold, limiter.permits(cost))
            limiter.plan(False)
    return 0


@cython.final
cdef class Ready:
    """An awaitable that returns None at once, any number of times."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    def send(self, value):
        raise StopIteration

    def throw(self, type, value=None, traceback=None):
        raise exception(type, value, traceback)

    def close(self):
        pass


cdef Ready READY = Ready()


cdef int ready_send(Ready self, object value, PyObject** result) except -1:
    Py_INCREF(None)
    result[0] = <PyObject*>None
    return PYGEN_RETURN


cdef PyObject* ready_next(Ready self) noexcept:
    return NULL  # without an exception: the end, and None


cdef inline bint acquire_at_once(Acquire self) noexcept:
    """Take one permit if there is room and nothing else to think of."""
    if self.state == CREATED and self.amount is ONE and self.timeout is None and self.limiter.decide_one() == 1:
        self.state = DONE
        return True
    return False


cdef int acquire_send(Acquire self, object value, PyObject** result) except -1:
    future = None if acquire_at_once(self) else acquire_proceed(self)
    Py_INCREF(future)
    result[0] = <PyObject*>future
    return PYGEN_RETURN if future is None else PYGEN_NEXT


cdef PyObject* acquire_next(Acquire self) except? NULL:
    if acquire_at_once(self):
        return NULL
    future = acquire_proceed(self)
    if future is None:
        return NULL
    Py_INCREF(future)
    return <PyObject*>future


cdef object acquire_proceed(Acquire self):
    """The next step of the coroutine: None when it returns, or the future that it waits for."""
    cdef AsyncLimiter limiter = self.limiter
    cdef char state = self.state
    if state == WAITING or state == LOST:
        if not self.future.done():
            raise RuntimeError("coroutine is being awaited already")
        waiter_abandon(self)  # somebody else resolved the future: ask again
    self.state = DONE
    if state == GRANTED:
        return None
    if state == EXPIRED:
        wait = limiter.wait_time(self.amount) if amount_of(self.amount) <= limiter.limit else INFINITY
        raise AcquireTimeout(_arguments.timed_out(self.amount), wait)
    if state == REFUSED:
        raise ValueError(_arguments.too_much("acquire", self.amount, limiter))
    if state == DONE:
        raise RuntimeError("cannot reuse already awaited coroutine")
    return acquire_begin(self, limiter)


cdef object acquire_begin(Acquire self, AsyncLimiter limiter):
    cdef int64_t cost = limiter.cost_of(self.amount, "acquire")
    cdef int64_t patience = NEVER
    cdef int64_t wait
    if self.timeout is not None:
        if isinstance(self.timeout, Expiry):
            patience = (<Expiry>self.timeout).left()
        elif not self.block:
            raise ValueError(f"timeout={self.timeout!r} makes no sense with block=False")
        else:
            patience = <int64_t>(min(<double>_arguments.timeout(self.timeout), 4e9) * SECOND)
    if limiter.decide(cost, True, self.block):
        return None
    if not self.block:
        with cython.critical_section(limiter):
            wait = limiter.estimate(cost)
        raise LimitReached(_arguments.no_room(self.amount), seconds(wait))
    if patience != NEVER:
        with cython.critical_section(limiter):
            wait = 0 if limiter.served_within(cost, patience) else limiter.estimate(cost)
        if wait > patience:
            raise AcquireTimeout(_arguments.timed_out(self.amount), seconds(wait))
        self.timeout = new_expiry(patience)
    if not PyLong_CheckExact(self.amount) and not PyFloat_CheckExact(self.amount):
        self.amount = amount_of(self.amount)
    try:
        limiter.enqueue(self, cost)
    except BaseException:
        waiter_abandon(self)
        raise
    return self.future


cdef spare_t spare_acquires


cdef inline Acquire new_acquire():
    cdef Acquire awaitable = <Acquire>spare_take(&spare_acquires, Acquire)
    awaitable.state = CREATED
    return awaitable


cdef int acquire_finish(PyObject* dying) except -1:
    cdef bint started = (<Acquire>dying).state != CREATED
    waiter_abandon(<Acquire>dying)
    if not started:
        warn("coroutine 'AsyncLimiter.acquire' was never awaited", RuntimeWarning)
    return 0


cdef void acquire_dealloc(PyObject* dying) noexcept:
    """The type's deallocator: see that nothing is left behind, then recycle or free."""
    if (<Acquire>dying).state != DONE and not spare_dies(dying, acquire_finish):
        return
    if RECYCLE and (<Acquire>dying).link is None:
        (<Acquire>dying).limiter = None
        (<Acquire>dying).amount = None
        (<Acquire>dying).timeout = None
        if spare_keep(&spare_acquires, dying):
            return
    spare_acquires.free(dying)


spare_acquires.free = <void (*)(PyObject*) noexcept>(<TypeSlots*>Acquire).tp_dealloc
(<TypeSlots*>Acquire).tp_dealloc = <void*>acquire_dealloc
# `await` asks one of these two slots, tasks the first; both spare the StopIteration.
(<TypeSlots*>Acquire).tp_as_async.am_send = <void*>acquire_send
(<TypeSlots*>Acquire).tp_flags |= HAVE_AM_SEND
(<TypeSlots*>Acquire).tp_iternext = <void*>acquire_next
(<TypeSlots*>Ready).tp_as_async.am_send = <void*>ready_send
(<TypeSlots*>Ready).tp_flags |= HAVE_AM_SEND
(<TypeSlots*>Ready).tp_iternext = <void*>ready_next
