"""Linux's timer descriptor; where there is none, `timerfd_open` returns -1 and the rest does nothing."""
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #if defined(__linux__)
      #include <string.h>
      #include <sys/timerfd.h>
      #include <time.h>
      #include <unistd.h>
      static inline int timerfd_open(void) {
        return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
      }
      /* Arm for an instant of the monotonic clock, or disarm with INT64_MAX.
         Either forgets a past expiration, so the descriptor need not be read. */
      static inline void timerfd_arm(int fd, int64_t deadline) {
        struct itimerspec spec;
        memset(&spec, 0, sizeof spec);
        if (deadline != INT64_MAX) {
          if (deadline < 1) deadline = 1; /* zero would disarm */
          spec.it_value.tv_sec = (time_t)(deadline / 1000000000LL);
          spec.it_value.tv_nsec = (long)(deadline % 1000000000LL);
        }
        timerfd_settime(fd, TFD_TIMER_ABSTIME, &spec, NULL);
      }
      static inline void timerfd_close(int fd) { close(fd); }
    #else
      static inline int timerfd_open(void) { return -1; }
      static inline void timerfd_arm(int fd, int64_t deadline) { (void)fd; (void)deadline; }
      static inline void timerfd_close(int fd) { (void)fd; }
    #endif
    """
    int timerfd_open() noexcept nogil
    void timerfd_arm(int fd, int64_t deadline) noexcept nogil
    void timerfd_close(int fd) noexcept nogil
