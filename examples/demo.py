"""A metered HTTP server, and a client that fetches from it: unlimited, limited, and limited by us.

The server, the client and this program are three processes. The server admits `--rate` requests per
second with a burst of `--burst`, and tolerates what arrives up to `--tolerance` milliseconds early,
because requests that leave evenly do not arrive evenly. The limiters are set to the rate and the
burst alone.

Exit status 1 says that our limiter granted more than it promised.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from urllib.request import Request, urlopen

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import aiolimiter_fast
from aiolimiter_fast._engine import ENGINE

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
NANOSECONDS = 10**9
OURS = "aiolimiter_fast"
NAMES = {"none": "no limiter", "aiolimiter": "aiolimiter", OURS: OURS}


@dataclass(frozen=True)
class Outcome:
    """What one client did: its own counts, and the times of arrival on the server's clock."""

    granted: int
    admitted: int
    refused: int
    jitter_ms: float
    client_cpu_us: float
    limiter_cpu_us: float | None
    arrivals: list[int]

    def worst_window(self, rate: int) -> float:
        """Return by how many requests some window, of any length, exceeded rate * length."""
        level = worst = previous = 0
        for now in self.arrivals:
            level = max(0, level - (now - previous) * rate) + NANOSECONDS
            worst = max(worst, level)
            previous = now
        return worst / NANOSECONDS


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def messages(process: subprocess.Popen[str]) -> Iterator[dict[str, float]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    if process.wait():
        raise SystemExit(f"a client failed with status {process.returncode}")


def run_client(limiter: str, options: list[str], seconds: float, progress: Callable[[float], None]) -> dict[str, float]:
    script = str(HERE / "demo_client.py")
    message: dict[str, float] = {}
    with running(script, limiter, "--seconds", str(seconds), *options) as process:
        for message in messages(process):
            progress(message.get("elapsed", seconds))
    return message


def arrivals(url: str, limiter: str) -> list[int]:
    with urlopen(Request(f"{url}arrivals", headers={"X-Caller": limiter})) as response:
        times: list[int] = json.load(response)
    return times


def run_all(args: argparse.Namespace, depth: int, console: Console) -> tuple[dict[str, Outcome], float]:
    """Return what each client did, and the CPU microseconds of a bare timer and future."""
    options = [f"--{name}={getattr(args, name)}" for name in ("rate", "burst", "tasks")]
    if args.uvloop:
        options.append("--uvloop")
    outcomes = {}
    with (
        running(str(HERE / "demo_server.py"), f"--rate={args.rate}", f"--depth={depth}") as server,
        Progress(TextColumn("{task.description:<32}"), BarColumn(), TimeRemainingColumn(), console=console) as progress,
    ):
        assert server.stdout is not None
        url = f"http://127.0.0.1:{int(server.stdout.readline())}/"
        bar = progress.add_task("", total=len(NAMES) * 1.5 * args.seconds)
        done = 0.0

        def run(limiter: str, what: str, seconds: float, *more: str) -> dict[str, float]:
            nonlocal done
            progress.update(bar, description=f"{what}, {NAMES.get(limiter, limiter)}")
            result = run_client(
                limiter,
                [*options, *more],
                seconds,
                lambda elapsed: progress.update(bar, completed=done + elapsed),
            )
            done += seconds
            return result

        def cpu_alone(limiter: str) -> float:
            return run(limiter, "acquiring only", args.seconds / 2)["cpu_us"]

        for limiter in NAMES:
            fetched = run(limiter, "fetching", args.seconds, f"--url={url}")
            outcomes[limiter] = Outcome(
                granted=int(fetched["granted"]),
                admitted=int(fetched["admitted"]),
                refused=int(fetched["refused"]),
                jitter_ms=fetched["jitter_ms"],
                client_cpu_us=fetched["cpu_us"],
                limiter_cpu_us=None if limiter == "none" else cpu_alone(limiter),
                arrivals=arrivals(url, limiter),
            )
        bare_cpu = cpu_alone("bare timer")
    return outcomes, bare_cpu


def make_table(outcomes: dict[str, Outcome], args: argparse.Namespace, permitted: float) -> Table:
    table = Table(box=box.MARKDOWN)
    table.add_column("client")
    for heading in ("requests", "200", "429", "delivered", "worst window", "jitter", "limiter CPU", "client CPU"):
        table.add_column(heading, justify="right")
    for limiter, outcome in outcomes.items():
        cpu = outcome.limiter_cpu_us
        table.add_row(
            NAMES[limiter],
            f"{outcome.granted:,}",
            f"{outcome.admitted:,}",
            f"{outcome.refused:,}",
            f"{outcome.admitted / permitted:.1%}",
            f"{outcome.worst_window(args.rate):,.1f}",
            f"{outcome.jitter_ms:.1f} ms",
            "-" if cpu is None else f"{cpu:.0f} µs",
            f"{outcome.client_cpu_us:.0f} µs",
        )
    return table


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def measured_on(uvloop: bool) -> str:
    packages = [f"{OURS} {aiolimiter_fast.__version__} ({ENGINE})"]
    packages += [f"{name} {version(name)}" for name in ("aiolimiter", "aiohttp")]
    if uvloop:
        packages.append(f"uvloop {version('uvloop')}")
    return (
        f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {', '.join(packages)}"
    )


def over_admissions(outcome: Outcome, rate: int, burst: int, permitted: float) -> list[str]:
    """Return what proves that a limiter granted too much, whatever the machine was doing."""
    proofs = []
    if outcome.granted > permitted:
        proofs.append(f"{outcome.granted:,} grants where {permitted:,.0f} are permitted")
    # Jitter lets a window of arrivals hold the grants of a longer one, and a task may resume, with its grant, one
    # burst late. More than both is not the machine's doing.
    excess = outcome.worst_window(rate)
    explained = 2 * burst + rate * outcome.jitter_ms / 1000
    if outcome.refused and excess > explained:
        proofs.append(
            f"{outcome.refused:,} answers of 429; worst window {excess:,.1f}, jitter explains {explained:,.1f}"
        )
    return proofs


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seconds", type=positive(float), default=4, help="length of each run (default: 4)")
    add("--rate", type=positive(int), default=1000, help="requests per second (default: 1000)")
    add("--burst", type=positive(int), default=1, help="requests at once (default: 1)")
    add("--tasks", type=positive(int), default=300, help="concurrent tasks (default: 300)")
    add("--tolerance", type=positive(float), default=25, help="milliseconds (default: 25)")
    add("--uvloop", action="store_true", help="run the clients on uvloop")
    add("--no-plot", action="store_true", help="leave docs/demo.svg and docs/demo.png alone")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    console = Console(highlight=False)
    say = partial(console.print, soft_wrap=True)
    permitted = args.burst + args.rate * args.seconds
    depth = args.burst + math.ceil(args.rate * args.tolerance / 1000)
    machine = measured_on(args.uvloop)
    say(
        f"{args.tasks} tasks, {args.seconds:g} s each. Permitted: {args.rate:,}/s with a burst of "
        f"{args.burst}. The server refuses above a burst of {depth}: it tolerates "
        f"{args.tolerance:g} ms of jitter."
    )
    outcomes, bare_cpu = run_all(args, depth, console)
    ours = outcomes[OURS]

    # Wide enough for the table to be Markdown, whatever the terminal.
    Console(width=120).print(make_table(outcomes, args, permitted))
    say(
        f"delivered: answers of 200, of the {permitted:,.0f} requests that are permitted in "
        f"{args.seconds:g} s\n"
        f"worst window: the most arrivals above rate * length, in any window; the server allows "
        f"{depth}\n"
        "jitter: longest less shortest time from grant to arrival\n"
        f"limiter CPU: process time per acquire of {args.tasks} tasks that only acquire, wake-ups "
        f"of the event loop included; a bare timer and future: {bare_cpu:.0f} µs\n"
        "client CPU: process time per request of the client that fetches\n"
        f"measured on: {machine}"
    )
    if outcomes["none"].granted < 1.5 * permitted:
        say("This machine hardly carries the rate without a limiter: try a lower --rate.")
    if not args.no_plot:
        from demo_plot import write_plot

        for path in write_plot(
            DOCS,
            [
                (
                    f"{NAMES[limiter]}: {outcome.admitted / permitted:.0%} delivered, {outcome.refused:,} refused",
                    outcome.arrivals,
                )
                for limiter, outcome in outcomes.items()
            ],
            rate=args.rate,
            burst=args.burst,
            seconds=args.seconds,
            caption=machine,
        ):
            say(f"Wrote {path.relative_to(HERE.parent)}")
    proofs = over_admissions(ours, args.rate, args.burst, permitted)
    for proof in proofs:
        say(f"FAILED: {OURS} over-admitted: {proof}")
    return bool(proofs)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
