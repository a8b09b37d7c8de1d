"""What every bucket must do, as tests for pytest: subclass BucketContract, and let it make your bucket."""

from __future__ import annotations

from typing import Any

from aiolimiter_fast.testing.contract._contents import HOSTILE_NAMES, Contents
from aiolimiter_fast.testing.contract._decisions import Decisions
from aiolimiter_fast.testing.contract._limiters import Limiters
from aiolimiter_fast.testing.contract._sharing import Sharing

__all__ = ["HOSTILE_NAMES", "BucketContract"]


class BucketContract(Decisions, Contents, Sharing, Limiters):
    """The contract of AbstractBucket: subclass it as `TestMyBucket`, with `make_bucket`.

    `make_bucket` may give an awaitable, and so may the bucket's methods: they are awaited on one event loop per test.
    The attributes say what the bucket claims to be; what it does not claim is not tested.

    Attributes of the class:
        threads: it may be called from several threads at once; it is not to be awaited.
        processes: it is one limit for several processes; `opener` makes it in another one.
        shared: two buckets made by the same name are one limit, as long as one is open.
        persistent: what it holds outlives `close`; made again by the same name it is still there.
        own_clock: it goes by a clock of its own, a server's say, and not by its items' time stamps.
        keeps_names: `peek` gives the name of the item that was put.
        interval: milliseconds of the limits that are waited for; longer for slow stores.
        heaviest: the weight of the heaviest item that is tried.
        patience: seconds after which what has not come back is a failure.
        longest_hold: seconds for which one call may keep an event loop from turning.

    Attribute of the test: folder, an empty directory.

    Example:
        from aiolimiter_fast import InMemoryBucket
        from aiolimiter_fast.testing import BucketContract

        class TestInMemoryBucket(BucketContract):
            threads = True

            def make_bucket(self, rates, name):
                return InMemoryBucket(rates)
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for claim, tests in _CLAIMS.items():
            for test in tests:
                own = getattr(BucketContract, test)
                if getattr(cls, test) in (None, own):  # what is no function is no test
                    setattr(cls, test, own if getattr(cls, claim) else None)


# Tests that only those need to pass who claim so.
_CLAIMS = {
    "threads": ("test_threads_get_exactly_the_limit", "test_threads_that_wait_at_a_limiter_are_all_served"),
    "processes": ("test_processes_get_exactly_the_limit", "test_a_killed_process_stops_nobody_and_what_it_took_counts"),
    "shared": ("test_buckets_of_one_name_are_one_limit",),
    "persistent": ("test_what_it_holds_outlives_it",),
}
