"""The API in a second: run it, and read it beside what it prints."""

import asyncio
import time

from aiolimiter_fast import AsyncLimiter, LimitReached

started = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - started:6.3f} s  {text}")


per_second = AsyncLimiter(10, 1)  # 10 per second, and the first 10 at once
evenly = AsyncLimiter(100, 1, burst=1)  # 100 per second, one every 10 ms


@evenly
async def fetch(page: int) -> int:
    return page


async def main() -> None:
    async with per_second:
        say("async with takes one permit")
    await per_second.acquire(9)
    say("acquire(9) took the other nine")

    say(f"the next one is due in {per_second.wait_time():.3f} s")
    say(f"try_acquire() does not wait: {per_second.try_acquire()}")
    try:
        await per_second.acquire(block=False)
    except LimitReached as error:
        say(f"nor does block=False: retry after {error.retry_after:.3f} s")
    try:
        await per_second.acquire(5, timeout=0.2)
    except TimeoutError:
        say("a wait longer than its timeout fails at once")
    await per_second.acquire(timeout=1)
    say("a shorter one waits")

    pages = await asyncio.gather(*(fetch(page) for page in range(50)))
    say(f"{len(pages)} calls of a decorated function, one every 10 ms")


if __name__ == "__main__":
    asyncio.run(main())
