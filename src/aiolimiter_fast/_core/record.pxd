"""A few numbers in memory that processes share, replaced as a whole by compare-and-swap: no lock, nothing to clean up.

A pair of control words, and two lanes of pairs. The control holds `turn`, how often anybody has begun to write, and
`which`: the turn whose record counts, what it is made of, and the lane that it is in. A pair of a lane is a number and
the turn that wrote it. To replace the record that it has read, a process
1. begins: swaps (turn, which) for (turn + 1, which), and turn + 1 is its own;
2. writes each number into the other lane, by a swap of the pair from what it carries of an earlier turn;
3. publishes: swaps (its turn, which) for (its turn, which of its own).

Why that is right:
- It takes effect at the third step, which succeeds only if nobody has begun since: then the record is still the one
  that was read, and the lane holds all numbers of this turn. For whoever writes there at another turn has either an
  earlier one, and finds the pairs of a later one, or has begun later.
- What is published stays as it is until another record is: writers of the same turn or earlier can swap nothing in its
  lane, and later ones are in the other. So a reader that finds `which` unchanged after its look has seen one record.
- Turns never recur, so nothing is ever taken for what it was before.
- A process that is killed or stopped between the first and the third step leaves a turn that has begun. Others cannot
  see whether it will go on: they let some microseconds pass, and begin anew over its head; should it go on, it fails at
  its next step and begins anew. Where two overtake each other, each waits twice as long the next time.
"""
from libc.stdint cimport int64_t

from aiolimiter_fast._core.shared cimport shared_load, shared_swap, shared_swap_pair

cdef extern from *:
    """
    #if defined(_MSC_VER)
      #include <intrin.h>
    #endif
    #if defined(_MSC_VER) && defined(_M_X64)
      #define record_pause() _mm_pause()
    #elif defined(_MSC_VER) && defined(_M_ARM64)
      #define record_pause() __yield()
    #elif defined(__x86_64__)
      #define record_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
      #define record_pause() __asm__ __volatile__("yield")
    #else
      #define record_pause() ((void)0)
    #endif
    """
    void record_pause() noexcept nogil

cdef enum:
    RECORD_MOST = 64             # numbers in a lane

# Places in the file, in words.
cdef enum:
    RECORD_TURN = 128
    RECORD_WHICH = 129
    RECORD_RESETS = 160          # how often it was reset, counted before it is
    RECORD_LANES = 512

# Bits of `which`: the lane, how many numbers, whether the last of them tells which are floats; above them the turn.
cdef enum:
    RECORD_COUNT = 1
    RECORD_FLOATS = 7
    RECORD_NUMBER = 8

# What came of an attempt to replace the record.
cdef enum:
    RECORD_CHANGED               # there is another one by now
    RECORD_DONE
    RECORD_DAMAGED

# How often to look, before and after being overtaken, whether somebody who has begun comes to an end.
cdef enum:
    RECORD_LOOKS = 64
    RECORD_MOST_LOOKS = 16384

cdef struct record_t:
    int64_t* words      # the file; NULL where there is none
    int64_t which       # as read last
    int64_t looks       # patience with others
    int64_t count       # numbers read
    int64_t numbers[64]


cdef inline int64_t* record_pair(const record_t* r, int64_t lane, int64_t place) noexcept nogil:
    return r.words + RECORD_LANES + 2 * (lane * RECORD_MOST + place)


cdef inline int64_t record_count(int64_t which) noexcept nogil:
    return (which >> RECORD_COUNT) & (RECORD_MOST - 1)


cdef inline bint record_read(record_t* r) noexcept nogil:
    """Read the record. False: it is damaged."""
    cdef int64_t which, turn, count, i
    cdef int64_t* pair
    cdef bint whole
    while True:
        which = shared_load(&r.words[RECORD_WHICH])
        turn = which >> RECORD_NUMBER
        count = record_count(which)
        pair = record_pair(r, which & 1, 0)
        whole = turn >= 0
        for i in range(count):
            r.numbers[i] = shared_load(pair)
            whole &= shared_load(pair + 1) == turn
            pair += 2
        if shared_load(&r.words[RECORD_WHICH]) == which:
            r.which, r.count = which, count
            return whole


cdef inline void record_count_reset(const record_t* r) noexcept nogil:
    """Let those notice who give back what they took before, and have not seen the record yet that is to come."""
    cdef int64_t resets = shared_load(&r.words[RECORD_RESETS])
    while not shared_swap(&r.words[RECORD_RESETS], resets, resets + 1):
        resets = shared_load(&r.words[RECORD_RESETS])


cdef inline int record_replace(record_t* r, const int64_t* numbers, int64_t count, bint floats) noexcept nogil:
    """Replace the record that was read last."""
    cdef int64_t which = r.which
    cdef int64_t lane = 1 - (which & 1)
    cdef int64_t looks = 0
    cdef int64_t turn, value, written, i
    cdef int64_t* pair
    while True:
        turn = shared_load(&r.words[RECORD_TURN])
        if shared_load(&r.words[RECORD_WHICH]) != which:
            return RECORD_CHANGED
        if turn < which >> RECORD_NUMBER:
            return RECORD_DAMAGED
        if turn != which >> RECORD_NUMBER and looks < r.looks:  # somebody has begun
            record_pause()
            looks += 1
        elif shared_swap_pair(&r.words[RECORD_TURN], turn, which, turn + 1, which):
            break
    turn += 1
    for i in range(count):
        pair = record_pair(r, lane, i)
        while True:
            value = shared_load(pair)
            written = shared_load(pair + 1)
            if written > turn:
                break
            if shared_swap_pair(pair, value, written, numbers[i], turn):
                break
        if written > turn:
            if shared_load(&r.words[RECORD_TURN]) == turn:  # nobody who could have written it
                return RECORD_DAMAGED
            break
    else:
        value = turn << RECORD_NUMBER | <int64_t>floats << RECORD_FLOATS | count << RECORD_COUNT | lane
        if shared_swap_pair(&r.words[RECORD_TURN], turn, which, turn, value):
            r.looks = RECORD_LOOKS
            return RECORD_DONE
    r.looks = min(2 * max(r.looks, RECORD_LOOKS), RECORD_MOST_LOOKS)
    return RECORD_CHANGED
