"""Awaitables of calls that need not wait live for a fraction of a microsecond. Included by `_bucket.pyx`.

They are recycled by hand and not tracked by the garbage collector before they wait, which a quarter of the time of such
a call depends on. (One that is never awaited and hangs on its own limiter is a cycle that is not seen.)
"""

cdef struct spare_t:
    PyObject* objects[SPARE]
    int count
    void (*free)(PyObject*) noexcept


cdef inline object spare_take(spare_t* spare, type kind):
    """A finished awaitable to be used again, or a new one."""
    if spare.count:
        spare.count -= 1
        _Py_NewReference(spare.objects[spare.count])
        return owned(spare.objects[spare.count])
    awaitable = kind.__new__(kind)
    PyObject_GC_UnTrack(<PyObject*>awaitable)
    return awaitable


cdef inline bint spare_keep(spare_t* spare, PyObject* dying) noexcept:
    """Keep a dying awaitable, whose references are cleared, for the next call."""
    if spare.count == SPARE:
        return False
    spare.objects[spare.count] = dying
    spare.count += 1
    return True


cdef bint spare_dies(PyObject* dying, int (*finish)(PyObject*) except -1) noexcept:
    """Let a dying awaitable clean up after itself; False if somebody has kept it: a warning filter or a handler."""
    cdef PyObject *kind = NULL
    cdef PyObject *value = NULL
    cdef PyObject *traceback = NULL
    Py_SET_REFCNT(dying, 1)
    PyErr_Fetch(&kind, &value, &traceback)
    if finish(dying) < 0:
        PyErr_WriteUnraisable(NULL)
    PyErr_Restore(kind, value, traceback)
    if Py_REFCNT(dying) > 1:
        Py_SET_REFCNT(dying, Py_REFCNT(dying) - 1)
        return False
    Py_SET_REFCNT(dying, 0)
    return True
