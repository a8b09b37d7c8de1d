"""The deadlines of a limiter and of its callers. Included by `_bucket.pyx`."""


@cython.final
@cython.no_gc_clear
cdef class Link(Event):
    """A limiter's entry in the deadline heap of one loop: when the next waiter is due."""
    cdef AsyncLimiter limiter     # None while nobody of this loop waits
    cdef Py_ssize_t waiting       # waiters of this loop

    cdef Py_ssize_t serve(self, Py_ssize_t budget) except -1:
        """Wake the limiter's waiters that are due; then enter its next deadline."""
        cdef AsyncLimiter limiter = self.limiter
        cdef Py_ssize_t woken
        if limiter is None:  # nobody waits any more, as of a moment ago
            return 0
        with cython.critical_section(limiter):
            if limiter.timer is not self.timer and limiter.timer.is_closed():
                statement_follow(limiter, self.timer)  # or its clock would stand still for those who wait here
                limiter.leak.last = NEVER
            limiter.advance()
            woken = limiter.release(budget)
            # Where the burst allows it, those who are left rest a while: that saves a wake-up for each of them.
            limiter.plan(0 < woken < budget and self.timer.intact(limiter.leak.last))
        return woken

    cdef int lose(self) except -1:
        cdef AsyncLimiter limiter = self.limiter
        return 0 if limiter is None else limiter.drop(True)


@cython.final
@cython.no_gc_clear
cdef class Expiry(Event):
    """The end of one caller's patience, in the deadline heap of its loop."""
    cdef void* waiter             # borrowed: in the heap only while the caller waits
    cdef int64_t patience         # ns

    cdef int enter(self, Acquire waiter) except -1:
        cdef int64_t last = waiter.limiter.leak.last
        self.waiter = <void*>waiter
        self.timer = waiter.link.timer
        return self.timer.schedule(&self.node, self.timer.now(0 if last == NEVER else last) + self.patience)

    cdef int64_t left(self) except -1:
        """The patience that is left of it, for a caller who has to ask again."""
        return max(self.node.key - self.timer.now(self.node.key - self.patience), 0)

    cdef int leave(self) except -1:
        if self.node.place >= 0:
            self.timer.schedule(&self.node, NEVER)
        return 0

    cdef Py_ssize_t serve(self, Py_ssize_t budget) except -1:
        """Turn the caller away, unless there is room for it at the last moment."""
        cdef Acquire waiter = <Acquire>self.waiter
        cdef AsyncLimiter limiter = waiter.limiter
        cdef Py_ssize_t woken
        with cython.critical_section(limiter):
            limiter.advance()
            woken = limiter.release(SLICE)
            if waiter.state == WAITING:
                limiter.remove(waiter)
                waiter.state = EXPIRED
                waiter_wake(waiter, running_loop())
            limiter.plan(False)
        return woken

    cdef int lose(self) except -1:
        return 0


cdef Expiry new_expiry(int64_t patience):
    cdef Expiry expiry = Expiry()
    expiry.patience = patience
    return expiry
