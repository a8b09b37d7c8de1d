"""What every benchmark shares: loops, interleaved rounds, rows and the table they are printed in."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import selectors
import statistics
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import chain, groupby
from pathlib import Path
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

LOOPS = ("asyncio", "uvloop")
OURS = "aiolimiter_fast"
PEERS = ("twin", "aiolimiter", "asynciolimiter", "throttler", "asyncio-throttle", "Semaphore")


class WatchedSelector(selectors.DefaultSelector):
    """A selector that counts its wake-ups and remembers when the last two were."""

    def __init__(self) -> None:
        super().__init__()
        self.wakeups = 0
        self.woken = self.woken_before = time.monotonic_ns()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(timeout)
        self.wakeups += 1
        self.woken_before, self.woken = self.woken, time.monotonic_ns()
        return events


def new_loop(name: str, selector: selectors.BaseSelector | None = None) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop(selector)


def run_on(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    """Run `main`, then cancel what it left behind and close the loop."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        leftover = asyncio.all_tasks(loop)
        for task in leftover:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*leftover, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()


@dataclass
class Samples:
    """The same quantity, measured once per round."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.values) < 2:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def summary(self) -> dict[str, float | int]:
        low, high = self.quartiles
        return {
            "median": self.median,
            "low_quartile": low,
            "high_quartile": high,
            "min": min(self.values),
            "max": max(self.values),
            "rounds": len(self.values),
        }


@dataclass
class Row:
    """One question: what every candidate answered, and the bar for our own answer."""

    what: str
    loop: str
    figures: dict[str, Samples]
    bar: float | None = None
    at_least: bool = False
    worst: bool = False  # judge the largest sample, for what must never happen
    limit: Samples | None = None  # the physical limit itself, in `unit`
    unit: str = ""
    peers: tuple[str, ...] = PEERS

    def figure(self, candidate: str) -> float | None:
        samples = self.figures.get(candidate)
        if samples is None or not samples.values:
            return None
        return max(samples.values) if self.worst else samples.median

    @property
    def met(self) -> bool | None:
        figure = self.figure(OURS)
        if self.bar is None or figure is None:
            return None
        return figure >= self.bar if self.at_least else figure <= self.bar

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "loop": self.loop,
            "bar": self.bar,
            "at_least": self.at_least,
            "met": self.met,
            "limit": self.limit and {"unit": self.unit, **self.limit.summary()},
            "figures": {name: samples.summary() for name, samples in self.figures.items()},
        }


def interleave(
    measures: Mapping[str, Callable[[], float]], rounds: int, budget: float = float("inf")
) -> dict[str, Samples]:
    """Measure all candidates once per round, in an order that rotates.

    A candidate that has used up `budget` seconds is not repeated.
    """
    samples = {name: Samples() for name in measures}
    spent = dict.fromkeys(measures, 0.0)
    names = list(measures)
    for _ in range(rounds):
        for name in names:
            if spent[name] > budget:
                continue
            start = time.perf_counter()
            samples[name].values.append(measures[name]())
            spent[name] += time.perf_counter() - start
        names.append(names.pop(0))
    return samples


def ratios(
    limit: Callable[[], float],
    measures: Mapping[str, Callable[[], float]],
    rounds: int,
    budget: float = float("inf"),
) -> tuple[dict[str, Samples], Samples]:
    """Each candidate as a ratio to the physical limit, measured right before it; and the limit."""
    limits = Samples()

    def ratio(measure: Callable[[], float]) -> Callable[[], float]:
        def measured() -> float:
            limits.values.append(limit())
            return measure() / limits.values[-1]

        return measured

    return interleave({name: ratio(measure) for name, measure in measures.items()}, rounds, budget), limits


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == 0:
        return "0"
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3f}"


def table(rows: Sequence[Row]) -> str:
    """One line per question and loop, on the same peers; `+-` is half the inter-quartile range of our rounds."""
    head = ["what", "loop", "bar", OURS, "+-", "met", *rows[0].peers, "limit"]
    lines = [head]
    for row in rows:
        ours = row.figures.get(OURS)
        spread = "-"
        if ours is not None and len(ours.values) > 1 and not row.worst:
            low, high = ours.quartiles
            spread = number((high - low) / 2)
        sign = ">=" if row.at_least else "<="
        lines.append(
            [
                row.what,
                row.loop,
                "-" if row.bar is None else f"{sign} {row.bar:g}",
                number(row.figure(OURS)),
                spread,
                {True: "yes", False: "NO", None: "-"}[row.met],
                *(number(row.figure(name)) for name in row.peers),
                "-" if row.limit is None else f"{number(row.limit.median)} {row.unit}".rstrip(),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def versions() -> dict[str, str]:
    names = (
        "aiolimiter-fast", "aiolimiter", "asynciolimiter", "throttler", "asyncio-throttle", "pyrate-limiter", "limits",
        "throttled-py", "token-bucket", "uvloop", "aiometer",
    )  # fmt: skip
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()} | {
        name: metadata.version(name) for name in names
    }


Question = Callable[[str, bool], list[Row]]


def main(questions: Mapping[str, Question], description: str | None) -> None:
    """The command line of every benchmark: run the questions on the chosen loops, print one table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--uvloop", action="store_true", help="uvloop only")
    parser.add_argument("--asyncio", action="store_true", help="asyncio only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--only", action="append", choices=list(questions), metavar="ROW", help=f"one of: {', '.join(questions)}"
    )
    options = parser.parse_args()
    loops = [name for name in LOOPS if getattr(options, name)] or list(LOOPS)
    rows: list[Row] = []
    start = time.perf_counter()
    for name in options.only or questions:
        answers = []
        for loop in loops:
            print(f"[{time.perf_counter() - start:5.0f} s] {name}, {loop} ...", file=sys.stderr, flush=True)
            answers.append(questions[name](loop, options.quick))
        # the same question on both loops stands on neighbouring lines
        order = [row.what for row in answers[0]]
        rows += sorted(chain.from_iterable(answers), key=lambda row: order.index(row.what))
    for _, group in groupby(rows, key=lambda row: row.peers):
        print(table(list(group)))
        print()
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    if options.json:
        report = {"versions": versions(), "rows": [row.to_json() for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
