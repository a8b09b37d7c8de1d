"""The monotonic clock in integer nanoseconds, the one that `time.monotonic()` reads."""
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #if defined(_WIN32)
      #ifndef WIN32_LEAN_AND_MEAN
        #define WIN32_LEAN_AND_MEAN
      #endif
      #ifndef NOMINMAX
        #define NOMINMAX
      #endif
      #include <windows.h>
      static inline int64_t clock_ns(void) {
      #if PY_VERSION_HEX >= 0x030D0000
        LARGE_INTEGER ticks, frequency;
        QueryPerformanceCounter(&ticks);
        QueryPerformanceFrequency(&frequency);
        /* Split, so that ticks * 10^9 cannot overflow. */
        int64_t whole = ticks.QuadPart / frequency.QuadPart;
        int64_t rest = ticks.QuadPart % frequency.QuadPart;
        return whole * 1000000000LL + rest * 1000000000LL / frequency.QuadPart;
      #else
        return (int64_t)GetTickCount64() * 1000000LL;
      #endif
      }
    #elif defined(__APPLE__)
      #include <time.h>
      static inline int64_t clock_ns(void) {
        return (int64_t)clock_gettime_nsec_np(CLOCK_UPTIME_RAW);
      }
    #else
      #include <time.h>
      static inline int64_t clock_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000LL + (int64_t)now.tv_nsec;
      }
    #endif
    """
    int64_t clock_ns() noexcept nogil
