"""The compiled engine: the leaky bucket, the limiter on it, and the waiting of its callers.

Contents:
    here           what all share, and LeakyBucket: the arithmetic alone, for callers that bring the time
    loop.pxi       LoopTimer: one event loop's clock and its heap of deadlines
                   TimerFd: the timer descriptor of a loop, alive as long as the loop is open
    events.pxi     what is in that heap: a limiter's next grant, a caller's timeout
    limiter.pxi    AsyncLimiter
    plain.pxi      its type: the garbage collector, and whether somebody has changed it
    statements.pxi what it has been told by those who read a server's headers
    spare.pxi      recycling of awaitables that did not have to wait
    acquire.pxi    Acquire: what `acquire()` returns, a lazy awaitable, and a node of the queue while it waits
    line.pxi       Line: callers in order of arrival, threads and tasks
    call.pxi       Waiter: one of them; what `try_acquire_async` returns
    window.pxi     Window: the sliding-window log with its line
    admission.pxi  Admission: the fast path of Limiter; Limited: a decorated function
    meters.pxi     Ticks, Spacing, Drips: the meters of `pacing`
    pacing.pxi     Gate: the limiters of `pacing`; Pass: what their `wait` returns
    shared.pxi     SharedWindow: the log in memory that processes share
    record.pxi     SharedRecord: a state of a few numbers in such memory, and GCRA on it

`_bucket_py` has the same classes in Python. Locking: state is complete at every point where Python code may
run, so the GIL makes each decision atomic; free-threaded builds hold the limiter's critical section instead.
A limiter's section is entered before a timer's, never the other way round.
"""
cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_GetItemWithError
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsDouble, PyLong_CheckExact
from cpython.object cimport PyObject, visitproc
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.math cimport INFINITY, ceil, isfinite, llrint
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint32_t

from aiolimiter_fast._core.clock cimport clock_ns
from aiolimiter_fast._core.heap cimport (
    heap_clear, heap_node, heap_push, heap_remove, heap_settle, heap_t, heap_top,
)
from aiolimiter_fast._core.hold cimport (
    DUST, PAUSED, hold_clear, hold_entry, hold_failing, hold_give_back, hold_pop, hold_state, hold_t, hold_take,
)
from aiolimiter_fast._core.leaky cimport (
    leak_advance, leak_configure, leak_cost, leak_due, leak_due_from, leak_empty, leak_fits, leak_give_back, leak_level,
    leak_t,
)
from aiolimiter_fast._core.record cimport (
    RECORD_DAMAGED, RECORD_DONE, RECORD_FLOATS, RECORD_LANES, RECORD_LOOKS, RECORD_MOST, RECORD_RESETS,
    record_count_reset, record_read, record_replace, record_t,
)
from aiolimiter_fast._core.shared cimport (
    SHARED_CAS, SHARED_FLOOR, SHARED_LEAKED, SHARED_SLOTS, shared_append, shared_begin, shared_first, shared_give_back,
    shared_is_current, shared_is_full, shared_load, shared_next, shared_raise, shared_t, shared_units,
)
from aiolimiter_fast._core.timerfd cimport timerfd_arm, timerfd_close, timerfd_open
from aiolimiter_fast._core.window cimport (
    HEAVIEST, PyMem_RawFree, PyMem_RawMalloc, PyMem_RawRealloc, STATED, window_advance, window_append,
    window_count_stated, window_due, window_failing, window_find, window_free, window_last, window_pop, window_rate,
    window_rate_due, window_reserve, window_shrink, window_slot, window_state, window_stated_due, window_stated_left,
    window_t, window_take_back, window_trim,
)

import asyncio as _asyncio
import warnings
from _thread import allocate_lock as _allocate_lock
from sys import platform as _platform
from time import get_clock_info as _get_clock_info
from types import BuiltinMethodType, GenericAlias, MethodType
from weakref import ref as _weakref

from aiolimiter_fast import _arguments, errors
from aiolimiter_fast._decorator import limited as _limited
from aiolimiter_fast.errors import AcquireTimeout, LimitReached

cdef extern from "Python.h":
    ctypedef struct AsyncSlots "PyAsyncMethods":
        void* am_send
    ctypedef struct TypeSlots "PyTypeObject":
        AsyncSlots* tp_as_async
        void* tp_clear
        void* tp_dealloc
        void* tp_iternext
        void* tp_traverse
        Py_ssize_t tp_dictoffset
        Py_ssize_t tp_vectorcall_offset
        unsigned long tp_flags
        unsigned int tp_version_tag
    TypeSlots* Py_TYPE(object)
    int PYGEN_RETURN, PYGEN_NEXT
    void _Py_NewReference(PyObject*)
    Py_ssize_t Py_REFCNT(PyObject*)
    void Py_SET_REFCNT(PyObject*, Py_ssize_t)
    bint PyObject_GC_IsTracked(PyObject*)
    void PyObject_GC_Track(PyObject*)
    void PyObject_GC_UnTrack(PyObject*)
    void PyErr_Fetch(PyObject**, PyObject**, PyObject**)
    void PyErr_Restore(PyObject*, PyObject*, PyObject*)
    void PyErr_WriteUnraisable(PyObject*)
    PyObject* PyList_GET_ITEM(list, Py_ssize_t)
    int PyObject_GenericSetAttr(object, object, PyObject*) except -1
    unsigned long Py_TPFLAGS_HAVE_VECTORCALL, Py_TPFLAGS_METHOD_DESCRIPTOR
    object PyObject_Vectorcall(object, PyObject**, size_t, PyObject*)
    long long PyLong_AsLongLongAndOverflow(object, int*) except? -1

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
      #define RECYCLE 0
    #else
      #define RECYCLE 1
    #endif
    #define owned(object) (object)
    #ifdef Py_TPFLAGS_HAVE_AM_SEND  /* CPython 3.10 asks for it */
      #define HAVE_AM_SEND Py_TPFLAGS_HAVE_AM_SEND
    #else
      #define HAVE_AM_SEND 0UL
    #endif
    """
    unsigned long HAVE_AM_SEND
    bint RECYCLE
    object owned(PyObject*)       # the reference that the caller holds

cdef enum:
    # How many waiters one turn of the loop wakes at most: their own steps run before the next turn.
    SLICE = 256
    # Where its burst bridges it, a queue of waiters rests between two servings (ns): as long as it can while keeping
    # RESERVE for a late loop, and REST at most.
    REST = 20_000_000
    RESERVE = 6_000_000
    # A burst that bridges less than this (ns) makes haste, with a lead.
    HASTY = 1_000_000
    # By so much at most (ns) the timer goes off early where every microsecond of lateness costs a part of the rate.
    LEAD = 250_000
    # For so long (ns) a loop is believed to have the clock that it had when last looked at.
    TRUST = 5_000
    # Finished awaitables kept for the next calls.
    SPARE = 64
    MILLISECOND = 1_000_000
    SECOND = 1_000_000_000

cdef int64_t MOST = 1 << 61            # units or nanoseconds: no sum of two overflows
cdef int64_t NEVER = INT64_MAX
cdef int64_t UNKNOWN = INT64_MIN       # what a clock says that makes no sense
cdef int64_t FIRED = INT64_MIN // 2    # armed: the descriptor has gone off, and is readable until it is set anew

cdef enum:
    CREATED    # not awaited yet
    WAITING    # in the queue
    GRANTED    # has its permits, not resumed yet
    EXPIRED    # its timeout has passed, not resumed yet
    REFUSED    # its amount no longer fits after a change of rate, not resumed yet
    LOST       # taken from the queue as its loop was closed, its process forked or its future cancelled
    DONE

# For so long at most (ns) a thread sleeps at a time: platforms bound it, and Windows lets no Ctrl-C end it.
cdef int64_t LONGEST_SLEEP = 100_000_000 if _platform == "win32" else 86_400_000_000_000

cdef object ONE = 1
cdef object MINUS_ONE = -1
cdef double CLOCK_RESOLUTION = _get_clock_info("monotonic").resolution
cdef object running_loop = None    # asyncio's _get_running_loop
cdef object loop_timer = None      # loop -> its LoopTimer
cdef long generation = 0           # forks since this process's ancestor started


def attach(get_running_loop, get_loop_timer):
    """Give the engine its event loops; called once by the waiting layer."""
    global running_loop, loop_timer
    running_loop = get_running_loop
    loop_timer = get_loop_timer


def forked():
    """Disown what belongs to the parent's loops; called in a forked child."""
    global generation
    generation += 1


cdef inline double seconds(int64_t ns) noexcept:
    return <double>ns / SECOND


cdef double amount_of(object amount) except -1.0:
    cdef double value
    if PyFloat_CheckExact(amount):
        value = PyFloat_AS_DOUBLE(amount)
        if value >= 0.0 and isfinite(value):
            return value
    elif PyLong_CheckExact(amount):
        try:
            value = PyLong_AsDouble(amount)
        except OverflowError:
            value = -1.0
        if value >= 0.0:
            return value
    return _arguments.amount(amount)


cdef object exception(kind, value, traceback):
    """The exception that the three arguments of `throw` stand for."""
    if value is None:
        value = kind() if isinstance(kind, type) else kind
    elif not isinstance(value, BaseException):
        value = kind(value)
    return value if traceback is None else value.with_traceback(traceback)


cdef int warn(str text, category) except -1:
    """Warn at the line of the caller: compiled frames do not count."""
    warnings.warn(text, category, stacklevel=1)
    return 0


cdef class LeakyBucket:
    """A leaky bucket that is told the time.

    Arguments: max_rate (permits), time_period (seconds), burst (permits; default max_rate).
    Instants are integer nanoseconds of any one clock. Source of the algorithm: ITU-T I.371, annex A.
    """
    cdef leak_t leak
    cdef double burst

    def __cinit__(self, max_rate, time_period, burst=None):
        cdef double rate, period
        rate, period, self.burst = _arguments.rate(max_rate, time_period, burst)
        leak_configure(&self.leak, rate, period * SECOND, self.burst, 0.0)
        self.leak.last = NEVER

    def take(self, amount, int64_t now):
        """Admit `amount` permits at `now` and return 0, or return the wait in nanoseconds and take nothing."""
        cdef int64_t cost = self.cost(amount)
        leak_advance(&self.leak, now)
        if leak_fits(&self.leak, cost):
            self.leak.level += cost
            return 0
        return leak_due(&self.leak, cost) - now

    def wait(self, amount, int64_t now):
        """Nanoseconds until `amount` permits fit, 0 if they do now; takes nothing."""
        cdef int64_t cost = self.cost(amount)
        leak_advance(&self.leak, now)
        return leak_due(&self.leak, cost) - now

    def level(self, int64_t now):
        """Permits in the bucket at `now`."""
        leak_advance(&self.leak, now)
        return leak_level(&self.leak)

    cdef int64_t cost(self, object amount) except -1:
        cdef double value = amount_of(amount)
        if value > self.burst:
            raise ValueError(f"amount={amount!r} exceeds burst={self.burst:g}")
        return leak_cost(&self.leak, value)


include "_bucket/loop.pxi"
include "_bucket/events.pxi"
include "_bucket/limiter.pxi"
include "_bucket/plain.pxi"
include "_bucket/statements.pxi"
include "_bucket/spare.pxi"
include "_bucket/acquire.pxi"
include "_bucket/line.pxi"
include "_bucket/call.pxi"
include "_bucket/window.pxi"
include "_bucket/admission.pxi"
include "_bucket/meters.pxi"
include "_bucket/pacing.pxi"
include "_bucket/shared.pxi"
include "_bucket/record.pxi"
