"""The sliding-window log in memory that processes share, changed by compare-and-swap: no lock, nothing to clean up.

A file of a header and a ring of slots of 16 bytes. Entries are numbered; number n lives in slot n % room, and is two
words: its time (ns), and a mark of its lap n / room (24 bits) and its weight (40 bits). Each process reads the entries
that it has not seen yet, decides by what it knows, and enters its own with one compare-and-swap of the whole slot.

Why that is right:
- The decision takes effect at the swap of slot n from the very content that this process saw there, the entry
  n - room. Had anybody entered n before, the content would be another: so it succeeds only if the process knew all
  entries up to n - 1 when it decided, and entries that it knows are in nobody's way.
- A process that is killed has swapped or it has not; there is no third state. Nothing waits for it. `hint`, a number up
  to which all entries exist, is only where newcomers begin to look; whoever comes by moves it on.
- A swap that was held up for hours expects an entry of a lap that has gone: time and lap differ, it fails, and the
  process looks again. The content recurs only after 2^24 laps, all at one time.
- Times never fall from entry to entry: a decision is dated no earlier than any time that its process knows of. So the
  time of a slot that is the same before and after the mark was read tells that both belong to one entry. A reader that
  was overtaken by a lap sees it by the mark, or by the clock after more than one longest window, and begins anew at the
  hint.
- An entry is replaced only when it is in nobody's window. If the ring is full of those that are, nothing is admitted.
- Giving back sets a weight to 0, after which `refunds` is raised; `flush` raises `floor`, the number before which
  nothing counts. Both make others look again; who has not seen it yet counts more, never less.
- `leaked` is the number before which somebody has leaked: no decision depends on it, only what is told of the log.
"""
from libc.stdint cimport INT64_MIN, int64_t, uint64_t

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_ARM64))
      #include <intrin.h>
      #define SHARED_CAS 1
      static __inline int64_t shared_load(const int64_t* word) {
      #if defined(_M_ARM64)
        return (int64_t)__ldar64((unsigned __int64 volatile*)word);
      #else
        int64_t value = *(const volatile int64_t*)word;
        _ReadWriteBarrier();
        return value;
      #endif
      }
      static __inline int shared_swap(int64_t* word, int64_t old, int64_t value) {
        return _InterlockedCompareExchange64(word, value, old) == old;
      }
      static __inline int shared_swap_pair(int64_t* pair, int64_t old0, int64_t old1, int64_t new0, int64_t new1) {
        __declspec(align(16)) int64_t old[2] = {old0, old1};
        return _InterlockedCompareExchange128(pair, new1, new0, old);
      }
    #elif (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__aarch64__))
      #define SHARED_CAS 1
      typedef struct { int64_t words[2]; } shared_pair;
      static inline int64_t shared_load(const int64_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
      static inline int shared_swap(int64_t* word, int64_t old, int64_t value) {
        return __atomic_compare_exchange_n(word, &old, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
      }
      /* The compilers' own would ask for flags or call a library that may take a lock. */
      static inline int shared_swap_pair(int64_t* pair, int64_t old0, int64_t old1, int64_t new0, int64_t new1) {
      #if defined(__x86_64__)
        unsigned char done;
        __asm__ __volatile__(
            "lock cmpxchg16b %1\\n\\t"
            "sete %0"
            : "=q"(done), "+m"(*(shared_pair*)pair), "+a"(old0), "+d"(old1)
            : "b"(new0), "c"(new1)
            : "cc", "memory");
        return done;
      #else
        int64_t found0, found1;
        int32_t failed;
        __asm__ __volatile__(
            "1: ldaxp %[found0], %[found1], %[pair]\\n\\t"
            "cmp %[found0], %[old0]\\n\\t"
            "ccmp %[found1], %[old1], #0, eq\\n\\t"
            "b.ne 2f\\n\\t"
            "stlxp %w[failed], %[new0], %[new1], %[pair]\\n\\t"
            "cbnz %w[failed], 1b\\n\\t"
            "b 3f\\n"
            "2: clrex\\n\\t"
            "mov %w[failed], #1\\n"
            "3:"
            : [found0] "=&r"(found0), [found1] "=&r"(found1), [failed] "=&r"(failed),
              [pair] "+Q"(*(shared_pair*)pair)
            : [old0] "r"(old0), [old1] "r"(old1), [new0] "r"(new0), [new1] "r"(new1)
            : "cc", "memory");
        return !failed;
      #endif
      }
    #else
      #define SHARED_CAS 0
      static inline int64_t shared_load(const int64_t* word) { return *word; }
      static inline int shared_swap(int64_t* word, int64_t old, int64_t value) { return 0; }
      static inline int shared_swap_pair(int64_t* pair, int64_t old0, int64_t old1, int64_t new0, int64_t new1) {
        return 0;
      }
    #endif
    """
    const bint SHARED_CAS     # whether this platform can swap two words at once
    int64_t shared_load(const int64_t*) noexcept nogil
    bint shared_swap(int64_t*, int64_t old, int64_t value) noexcept nogil
    bint shared_swap_pair(int64_t*, int64_t old0, int64_t old1, int64_t new0, int64_t new1) noexcept nogil

cdef enum:
    SHARED_WEIGHT = 40           # bits of a mark
    SHARED_EVERY = 32            # entries between two moves of the hint

# Places in the file, in words; hint and floor on cache lines of their own.
cdef enum:
    SHARED_HINT = 128
    SHARED_FLOOR = 160
    SHARED_REFUNDS = 161
    SHARED_LEAKED = 162
    SHARED_SLOTS = 512

cdef struct shared_t:
    int64_t* words      # the file; NULL where there is none
    int64_t room        # slots, a power of 2
    int64_t shift       # its logarithm
    int64_t next        # number of the first entry that this process has not seen
    int64_t old_time    # what it saw in that entry's slot instead
    int64_t old_mark
    int64_t last        # time of the newest entry
    int64_t floor       # as seen when it last began anew
    int64_t refunds
    int64_t looked      # the latest time that it knows of; its next decision is not before that
    bint stale          # what it knows may be wrong


cdef inline int64_t* shared_slot(const shared_t* s, int64_t number) noexcept nogil:
    return s.words + SHARED_SLOTS + 2 * (number & (s.room - 1))


cdef inline int64_t shared_weight(int64_t mark) noexcept nogil:
    return mark & ((<int64_t>1 << SHARED_WEIGHT) - 1)


cdef inline int64_t shared_mark(const shared_t* s, int64_t number, int64_t weight) noexcept nogil:
    return <int64_t>((<uint64_t>number >> s.shift) << SHARED_WEIGHT) | weight


cdef inline int64_t shared_ahead(const shared_t* s, int64_t number, int64_t mark) noexcept nogil:
    """By how many laps the entry with this mark is ahead of `number`."""
    cdef uint64_t laps = (<uint64_t>mark >> SHARED_WEIGHT) - (<uint64_t>number >> s.shift)
    return <int64_t>(laps << SHARED_WEIGHT) >> SHARED_WEIGHT


cdef inline void shared_read(const shared_t* s, int64_t number, int64_t* time, int64_t* mark) noexcept nogil:
    """What is in the slot of `number`."""
    cdef int64_t* slot = shared_slot(s, number)
    while True:
        time[0] = shared_load(slot)
        mark[0] = shared_load(slot + 1)
        if shared_load(slot) == time[0]:
            return


cdef inline void shared_raise(const shared_t* s, Py_ssize_t place, int64_t number) noexcept nogil:
    """Raise a word of the header to `number`, unless it is higher already."""
    cdef int64_t value = shared_load(&s.words[place])
    while value < number and not shared_swap(&s.words[place], value, number):
        value = shared_load(&s.words[place])


cdef inline bint shared_is_current(const shared_t* s, int64_t now, int64_t longest) noexcept nogil:
    """Whether it is enough to read on from where this process stopped."""
    return (
        not s.stale and now <= s.looked + longest
        and shared_load(&s.words[SHARED_FLOOR]) == s.floor and shared_load(&s.words[SHARED_REFUNDS]) == s.refunds
    )


cdef inline bint shared_begin(shared_t* s, int64_t now, int64_t longest) noexcept nogil:
    """Begin anew: go to the first entry that counts at `now`, or at the latest time known. False: it is damaged."""
    cdef int64_t time, mark, ahead, first, number, steps
    s.floor = shared_load(&s.words[SHARED_FLOOR])
    s.refunds = shared_load(&s.words[SHARED_REFUNDS])
    number = shared_load(&s.words[SHARED_HINT])
    steps = 16 * s.room + 65536
    while True:
        shared_read(s, number, &time, &mark)
        ahead = shared_ahead(s, number, mark)
        if ahead == -1:
            break
        number += 1 if ahead == 0 else ahead << s.shift
        steps -= 1
        if ahead < 0 or steps < 0:
            return False
    s.last = INT64_MIN
    s.looked = max(s.looked, now)
    first = max(number - s.room, s.room, s.floor)
    s.next = number
    while s.next > s.room:
        shared_read(s, s.next - 1, &time, &mark)
        if shared_ahead(s, s.next - 1, mark) != 0:
            break  # replaced, so it was in nobody's window
        if s.last == INT64_MIN:
            s.last = time
        if s.next <= first or time < s.looked - longest:
            break
        s.next -= 1
    s.stale = False
    return True


cdef inline int shared_next(shared_t* s, int64_t* time, int64_t* weight) noexcept nogil:
    """Read the next entry: 1, or 0 if there is none yet, or -1 if it has gone."""
    cdef int64_t mark
    cdef int64_t ahead
    shared_read(s, s.next, time, &mark)
    ahead = shared_ahead(s, s.next, mark)
    if ahead == 0:
        weight[0] = shared_weight(mark)
        s.next += 1
        s.last = time[0]
        return 1
    s.old_time, s.old_mark = time[0], mark
    return 0 if ahead == -1 else -1


cdef inline int64_t shared_first(const shared_t* s) noexcept nogil:
    """Number of the first entry that is in the ring and has not been leaked."""
    return max(s.next - s.room, s.room, shared_load(&s.words[SHARED_FLOOR]), shared_load(&s.words[SHARED_LEAKED]))


cdef inline int64_t shared_units(const shared_t* s, int64_t* number, int64_t instant) noexcept nogil:
    """Units of entries from `number` on that are older than an instant; `number` is moved on past them."""
    cdef int64_t time, mark, units = 0
    while number[0] < s.next:
        shared_read(s, number[0], &time, &mark)
        if shared_ahead(s, number[0], mark) == 0:  # else it was replaced a moment ago
            if time >= instant:
                break
            units += shared_weight(mark)
        number[0] += 1
    return units


cdef inline bint shared_is_full(const shared_t* s, int64_t longest) noexcept nogil:
    """Whether the next entry would replace one that counts."""
    return (
        shared_weight(s.old_mark) > 0 and s.next - s.room >= max(s.floor, s.room) and s.old_time >= s.looked - longest
    )


cdef inline bint shared_append(shared_t* s, int64_t weight) noexcept nogil:
    """Enter an entry at the latest time known, if nobody has entered one since `shared_next` said 0."""
    cdef int64_t time = s.looked
    if not shared_swap_pair(
        shared_slot(s, s.next), s.old_time, s.old_mark, time, shared_mark(s, s.next, weight)
    ):
        return False
    s.last = time
    if s.next % SHARED_EVERY == 0:
        shared_raise(s, SHARED_HINT, s.next)
    s.next += 1
    return True


cdef inline bint shared_give_back(const shared_t* s, int64_t instant, int64_t weight) noexcept nogil:
    """Take out an entry of this weight at `instant`; False if there is none."""
    cdef int64_t number = s.next - 1
    cdef int64_t found = -1
    cdef int64_t time, mark
    cdef int64_t old_time = 0
    cdef int64_t old_mark = 0
    while number >= max(s.next - s.room, s.room):
        shared_read(s, number, &time, &mark)
        if shared_ahead(s, number, mark) != 0 or time < instant:
            break
        if time == instant and shared_weight(mark) == weight:
            found, old_time, old_mark = number, time, mark
            break
        number -= 1
    if found < 0 or not shared_swap_pair(
        shared_slot(s, found), old_time, old_mark, old_time, shared_mark(s, found, 0)
    ):
        return False
    while True:
        number = shared_load(&s.words[SHARED_REFUNDS])
        if shared_swap(&s.words[SHARED_REFUNDS], number, number + 1):
            return True
