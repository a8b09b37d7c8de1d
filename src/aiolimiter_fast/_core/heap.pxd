"""An intrusive binary heap: nodes know their place, so any of them leaves in O(log n)."""
from libc.stdint cimport int64_t

cdef extern from "Python.h":
    # Raw, since they need no GIL; not libc's own, so that tracemalloc counts them.
    void* PyMem_RawRealloc(void*, size_t) noexcept nogil
    void PyMem_RawFree(void*) noexcept nogil

cdef struct heap_node:
    int64_t key        # smallest first
    int64_t order      # first come first among equals
    Py_ssize_t place   # index in the heap, -1 outside

cdef struct heap_t:
    heap_node** slots
    Py_ssize_t size
    Py_ssize_t room


cdef inline bint heap_before(const heap_node* a, const heap_node* b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.order < b.order)


cdef inline void heap_put(heap_t* h, heap_node* node, Py_ssize_t place) noexcept nogil:
    h.slots[place] = node
    node.place = place


cdef inline void heap_settle(heap_t* h, heap_node* node, Py_ssize_t place) noexcept nogil:
    """Move the hole at `place` up or down to where `node` belongs, and put it there."""
    cdef Py_ssize_t other
    while place > 0:
        other = (place - 1) >> 1
        if not heap_before(node, h.slots[other]):
            break
        heap_put(h, h.slots[other], place)
        place = other
    while True:
        other = 2 * place + 1
        if other >= h.size:
            break
        if other + 1 < h.size and heap_before(h.slots[other + 1], h.slots[other]):
            other += 1
        if not heap_before(h.slots[other], node):
            break
        heap_put(h, h.slots[other], place)
        place = other
    heap_put(h, node, place)


cdef inline bint heap_resize(heap_t* h, Py_ssize_t room) noexcept nogil:
    cdef heap_node** slots = <heap_node**>PyMem_RawRealloc(h.slots, room * sizeof(heap_node*))
    if slots == NULL:
        return False
    h.slots = slots
    h.room = room
    return True


cdef inline bint heap_push(heap_t* h, heap_node* node) noexcept nogil:
    """Insert; False if there is no memory."""
    if h.size == h.room and not heap_resize(h, h.room + (h.room >> 2) + 8):
        return False
    h.size += 1
    heap_settle(h, node, h.size - 1)
    return True


cdef inline void heap_remove(heap_t* h, heap_node* node) noexcept nogil:
    """Take out a node of this heap, and give memory back once three quarters are unused."""
    cdef Py_ssize_t place = node.place
    cdef heap_node* last
    h.size -= 1
    last = h.slots[h.size]
    node.place = -1
    if last != node:
        heap_settle(h, last, place)
    if h.room > 64 and h.size < h.room >> 2:
        heap_resize(h, h.room >> 1)


cdef inline heap_node* heap_top(const heap_t* h) noexcept nogil:
    return h.slots[0] if h.size else NULL


cdef inline void heap_clear(heap_t* h) noexcept nogil:
    PyMem_RawFree(h.slots)
    h.slots = NULL
    h.size = h.room = 0
