"""Pacing in a second: run it, and read it beside what it prints."""

import asyncio
import time

from aiolimiter_fast import LeakyBucketLimiter, StrictLimiter, Throttler, pacing

started = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - started:6.3f} s  {text}")


async def main() -> None:
    even = pacing.Limiter(100)  # a call every 10 ms
    await asyncio.gather(*(even.wait() for _ in range(11)))
    say("11 calls of Limiter(100): one at once, ten in 100 ms")

    beats = 0
    async for _ in even:
        beats += 1
        if beats == 10:
            break
    say(f"{beats} beats of a metronome")

    strict = StrictLimiter(100)
    for _ in range(11):
        async with strict:
            pass
    say("11 calls of StrictLimiter(100), never two within 10 ms")

    bucket = LeakyBucketLimiter(100, capacity=10)
    await asyncio.gather(*(bucket.wrap(asyncio.sleep(0)) for _ in range(20)))
    say("20 calls of LeakyBucketLimiter(100, capacity=10): ten at once, ten in 100 ms")

    throttler = Throttler(rate_limit=5, period=0.05)
    for _ in range(15):
        async with throttler:
            pass
    say("15 calls of Throttler(5, 0.05): five at once, and five more after 50 and 100 ms")

    await asyncio.gather(asyncio.to_thread(even.wait_sync), even.wait())
    say("a thread and a task in one line")


if __name__ == "__main__":
    asyncio.run(main())
