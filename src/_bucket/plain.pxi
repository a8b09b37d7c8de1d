"""The type of AsyncLimiter: what the garbage collector sees, and whether it is as made. Included by `_bucket.pyx`."""

cdef int (*limiter_traverse_fields)(PyObject*, visitproc, void*) noexcept


cdef int limiter_traverse(PyObject* self, visitproc visit, void* arg) noexcept:
    """Show the garbage collector the waiters that the queue holds."""
    cdef Py_ssize_t i
    cdef int stop = limiter_traverse_fields(self, visit, arg)
    for i in range((<AsyncLimiter>self).queue.size):
        if stop:
            break
        stop = visit(<PyObject*>(<char*>(<AsyncLimiter>self).queue.slots[i] - WAITER_NODE), arg)
    return stop


cdef int limiter_clear(PyObject* self) noexcept:
    (<AsyncLimiter>self).drop(False)
    return 0


limiter_traverse_fields = <int (*)(PyObject*, visitproc, void*) noexcept>(<TypeSlots*>AsyncLimiter).tp_traverse
(<TypeSlots*>AsyncLimiter).tp_traverse = <void*>limiter_traverse
(<TypeSlots*>AsyncLimiter).tp_clear = <void*>limiter_clear
AsyncLimiter.__module__ = "aiolimiter_fast"


cdef inline bint is_plain(AsyncLimiter limiter):
    """Whether `acquire` is the one defined here: nobody has subclassed the limiter or patched its class."""
    global plain_version
    cdef TypeSlots* slots = Py_TYPE(limiter)
    if slots.tp_version_tag != plain_version or plain_version == 0:  # 0: the type has no version
        if type(limiter) is not AsyncLimiter or AsyncLimiter.acquire is not plain_acquire:
            return False
        plain_version = slots.tp_version_tag
    return True


cdef object plain_acquire = AsyncLimiter.acquire
cdef unsigned int plain_version = 0
