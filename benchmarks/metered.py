"""What does a client get from a metered server, and what does it cost the server?

For each scenario four clients at the same time, each in a process of its own and with a quota of its own, on one real
server on loopback: httpx with our stack, httpx as it comes, httpx with aiolimiter and tenacity, and httpx with the
header limiter of textbooks (time left / remaining). 50 tasks want three times the quota. Then each HTTP client that we
have a stack for, at the same time, with and without headers. All figures but `lost` are read in the server's log.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from _measure import OURS, Row, Samples, table, versions
from _metered_clients import Job
from _metered_plot import Panel, Strip, write_plot

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from metered_server import UNAVAILABLE, Log, MeteredProcess, Plan

HERE = Path(__file__).resolve().parent
TASKS = 50
DEMAND = 3.0  # times the quota
WARM = 5.0  # seconds after which a client without headers is held to its share of refusals
# A run in which the server was late for a larger share of the time shows the machine, and is made again, so often.
LATE, TRIES = 0.01, 3
# Names in the tables, and those of _metered_clients.
CLIENTS = {OURS: "httpx", "plain httpx": "plain", "aiolimiter + tenacity": "aiolimiter", "left / remaining": "headers"}
PEERS = tuple(CLIENTS)[1:]
STACKS = ("httpx", "httpx2", "aiohttp", "requests")


@dataclass(frozen=True)
class Scenario:
    what: str
    plan: Plan
    seconds: float = 20.0
    share: float | None = 0.95  # the bar for our share of the quota
    drawn: str = ""  # its title in the picture

    @property
    def is_silent(self) -> bool:
        return self.plan.dialect == "silent"


SILENT = Plan(limit=50, window=1, dialect="silent", retry_after=False)
OUTAGE = ((5.0, 15.0),)
SCENARIOS = {
    "fixed": Scenario("fixed window, ietf", Plan(), drawn="with headers,\nfixed windows of 5 s"),
    "sliding": Scenario("sliding window, discord", Plan("sliding", dialect="discord")),
    "rounded": Scenario("sliding window, x-ratelimit", Plan("sliding", dialect="x-ratelimit")),
    "bucket": Scenario("token bucket, discord", Plan("bucket", dialect="discord")),
    "shared": Scenario("shared with another, openai", Plan(dialect="openai", another_every=0.1)),
    "changing": Scenario(
        "50/s, 20/s at 5 s, 50/s at 12.5 s, anthropic",
        Plan(dialect="anthropic", changes=((5, 100), (12.5, 250))),
        drawn="with headers,\na quota that changes",
    ),
    "slow": Scenario("answers after 0.2 to 0.6 s, discord", Plan(dialect="discord", latency=(0.2, 0.6))),
    "streaming": Scenario("streaming bodies of 0.2 s, ietf", Plan(parts=10)),
    "outage": Scenario(
        "outage of 10 s, ietf", Plan(outages=OUTAGE), 25.0, share=None, drawn="with headers,\nan outage of 10 s"
    ),
    "silent fixed": Scenario(
        "silent, fixed window", SILENT, share=0.85, drawn="without headers,\nfixed windows of 1 s"
    ),
    "silent sliding": Scenario("silent, sliding window", replace(SILENT, meter="sliding"), share=0.85),
    "silent bucket": Scenario("silent, token bucket", replace(SILENT, meter="bucket"), share=0.85),
    "silent outage": Scenario("silent, outage of 10 s", replace(SILENT, outages=OUTAGE), 25.0, share=None),
    "silent told": Scenario("silent but Retry-After: 1, fixed window", replace(SILENT, retry_after=True), share=None),
}
STACK_SCENARIOS = ("fixed", "silent fixed")
QUICK = ("fixed", "outage", "silent fixed")


@dataclass
class Outcome:
    """What the server saw of one client, and what the client told its callers."""

    log: Log
    told: list[tuple[str, int]]
    errors: dict[str, int]
    cpu: float


def run(scenario: Scenario, clients: Sequence[str], uvloop: bool) -> dict[str, Outcome]:
    """Run the clients at the same time, each with an account of its own."""
    plan = scenario.plan
    with MeteredProcess({name.replace(" ", "-"): plan for name in clients}) as server, ExitStack() as exits:
        processes = {}
        for name in clients:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "_metered_clients.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            exits.callback(process.communicate)
            exits.callback(process.kill)
            url = server.url(name.replace(" ", "-"))
            job = Job(name, url, scenario.seconds, DEMAND * plan.rate, TASKS, plan.rate, uvloop)
            assert process.stdin is not None
            print(json.dumps(asdict(job)), file=process.stdin, flush=True)
            processes[name] = process
        for process in processes.values():
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit("a client did not start")
        begin = server.begin(0.5)
        for process in processes.values():
            assert process.stdin is not None
            print(begin, file=process.stdin, flush=True)
        outcomes = {}
        for name, process in processes.items():
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            told = [(str(number), status) for number, status in said["told"]]
            outcomes[name] = Outcome(server.log(name.replace(" ", "-")), told, said["errors"], said["cpu"])
    return outcomes


def undisturbed(scenario: Scenario, clients: Sequence[str], uvloop: bool, start: float) -> dict[str, Outcome]:
    """Run until the machine had time for it; the run in which the server was late the least."""
    best: dict[str, Outcome] = {}
    for _ in range(TRIES):
        print(f"[{time.perf_counter() - start:5.0f} s] {scenario.what} ... ", end="", file=sys.stderr, flush=True)
        outcomes = run(scenario, clients, uvloop)
        if not best or late(outcomes) < late(best):
            best = outcomes
        print(f"the server was late for {late(outcomes):.2f} s", file=sys.stderr)
        for client, outcome in outcomes.items():
            for error, times in outcome.errors.items():
                print(f"          {client}: {times} times {error}", file=sys.stderr)
        if late(best) <= LATE * scenario.seconds:
            break
    return best


def late(outcomes: dict[str, Outcome]) -> float:
    """Seconds for which the server was kept from its work, by the clients or by what else the machine does."""
    return max(outcome.log.late for outcome in outcomes.values())


Figure = Callable[[Outcome], float]


def questions(scenario: Scenario) -> Iterator[tuple[str, Figure, float | None, bool]]:
    """What is asked of a run: a name, a figure of a client, the bar, and whether it is to be reached or not passed."""
    plan, seconds = scenario.plan, scenario.seconds
    permitted = plan.permitted(seconds)
    yield "share of the quota", lambda it: it.log.share(permitted, seconds), scenario.share, True
    if not scenario.is_silent:
        yield "most 429s in a window", lambda it: it.log.most_refused(plan.window, seconds), 1, False
    elif not plan.outages:
        bar = 0.05 if scenario.share else None
        yield "share of 429s after 5 s", lambda it: it.log.refused_share(WARM, seconds), bar, False
    yield "429s and 503s", lambda it: len(it.log) - len(it.log.admitted()), None, False
    for _, back in plan.outages[:1]:
        yield "first second after it / rate", partial(first_second, back, plan.rate), 1, False
        yield "seconds to recover", partial(recovery, back), None, False
    yield "lost", lambda it: len(it.log.lost(it.told)), 0, False
    yield "sent again undue", lambda it: len(it.log.sent_undue()), 0, False


def first_second(instant: float, rate: float, outcome: Outcome) -> float:
    return outcome.log.first_second(instant) / rate


def recovery(instant: float, outcome: Outcome) -> float:
    return outcome.log.recovery(instant)


def compared(scenario: Scenario, rounds: Sequence[dict[str, Outcome]], loop: str) -> list[Row]:
    """Our client beside its peers."""
    rows = []
    for what, figure, bar, at_least in questions(scenario):
        figures = {
            name: Samples([float(figure(outcomes[client])) for outcomes in rounds]) for name, client in CLIENTS.items()
        }
        worst = not at_least and bar is not None
        rows.append(Row(f"{scenario.what}: {what}", loop, figures, bar, at_least, worst, peers=PEERS))
    return rows


def stacks(scenario: Scenario, rounds: Sequence[dict[str, Outcome]], loop: str) -> list[Row]:
    """Each client with our stack."""
    rows = []
    for what, figure, bar, at_least in questions(scenario):
        for client in rounds[0]:
            figures = {OURS: Samples([float(figure(outcomes[client])) for outcomes in rounds])}
            worst = not at_least and bar is not None
            how = "threads" if client == "requests" else loop
            rows.append(Row(f"{scenario.what}, {client}: {what}", how, figures, bar, at_least, worst, peers=()))
    return rows


def strip(scenario: Scenario, outcomes: dict[str, Outcome]) -> Strip:
    """What the picture shows of a run."""
    plan, seconds = scenario.plan, scenario.seconds
    panels = []
    for client in CLIENTS.values():
        log, told = outcomes[client].log, outcomes[client].told
        refused = sorted(log.refused(0, seconds) + log.refused(0, seconds, UNAVAILABLE))
        share = log.share(plan.permitted(seconds), seconds)
        note = f"{share:.0%} used, {len(refused):,} refused, {len(log.lost(told)):,} lost"
        panels.append(Panel(log.admitted(0, seconds), refused, note))
    quota = [(0.0, plan.rate), *((when, limit / plan.window) for when, limit in plan.changes)]
    return Strip(scenario.drawn, seconds, quota, plan.outages, panels)


def markdown(rows: Sequence[Row]) -> str:
    """The comparison as the documentation has it: what was used, what was refused, what was lost."""
    heads = ("share of the quota", "429s and 503s", "lost")
    lines = [f"| server | {' | '.join(CLIENTS)} |", "|---" * (len(CLIENTS) + 1) + "|"]
    for what, group in groupby((row for row in rows if row.peers), key=lambda row: row.what.rpartition(": ")[0]):
        found = {row.what.rpartition(": ")[2]: row for row in group}
        cells = []
        for client in CLIENTS:
            share, refused, lost = (found[head].figure(client) or 0.0 for head in heads)
            cells.append(f"{share:.2f}, {refused:,.0f}, {lost:,.0f}")
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three scenarios, of 10 s where there is no outage")
    parser.add_argument("--uvloop", action="store_true", help="run the clients on uvloop")
    parser.add_argument("--rounds", type=int, default=1, help="how often each scenario is run (default: 1)")
    parser.add_argument("--only", action="append", choices=[*SCENARIOS, "stacks"], metavar="SCENARIO")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write metered.svg and metered.png there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the comparison to FILE, as a table")
    options = parser.parse_args()
    loop = "uvloop" if options.uvloop else "asyncio"
    start = time.perf_counter()

    def repeat(scenario: Scenario, clients: Sequence[str]) -> list[dict[str, Outcome]]:
        return [undisturbed(scenario, clients, options.uvloop, start) for _ in range(options.rounds)]

    def short(scenario: Scenario) -> Scenario:
        return replace(scenario, seconds=10.0) if options.quick and not scenario.plan.outages else scenario

    rows: list[Row] = []
    strips: list[Strip] = []
    names = options.only or [*(QUICK if options.quick else SCENARIOS), "stacks"]
    for name in names:
        if name != "stacks":
            scenario = short(SCENARIOS[name])
            rounds = repeat(scenario, list(CLIENTS.values()))
            rows += compared(scenario, rounds, loop)
            if scenario.drawn:
                strips.append(strip(scenario, rounds[-1]))
            continue
        for each in STACK_SCENARIOS:
            scenario = short(SCENARIOS[each])
            clients = [client for client in STACKS if client != "httpx2" or sys.version_info >= (3, 11)]
            rows += stacks(scenario, repeat(scenario, clients), loop)
    for _, group in groupby(rows, key=lambda row: row.peers):
        print(table(list(group)))
        print()
    used = versions() | {name: metadata.version(name) for name in ("httpx", "aiohttp", "requests", "tenacity")}
    print(", ".join(f"{name} {version}" for name, version in used.items()))
    if options.json:
        report: dict[str, Any] = {"versions": used, "rows": [row.to_json() for row in rows]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(rows) + "\n")
    if options.plot and strips:
        caption = ", ".join(f"{name} {used[name]}" for name in ("python", "httpx", "aiolimiter", "tenacity", "aiohttp"))
        for path in write_plot(options.plot, list(CLIENTS), strips, caption):
            print(f"Wrote {path}")


if __name__ == "__main__":
    main()
