"""The limiter against a model of it in exact rational arithmetic, to the nanosecond."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

SECOND = 10**9


class Model:
    """What AsyncLimiter promises, said in fractions, and the slow way.

    Waiters: smaller amounts first, then first come; a newcomer that fits passes. Whoever waits longest is passed by
    one burst's worth of permits at most, then it is next. Fair: first come first served.
    """

    def __init__(self, max_rate: Fraction, time_period: Fraction, burst: Fraction, fair: bool) -> None:
        self.level = Fraction(0)
        self.now = 0
        self.max_rate, self.time_period, self.burst, self.fair = max_rate, time_period, burst, fair
        self.waiting: dict[int, Fraction] = {}  # by arrival
        self.passed: dict[int, Fraction] = {}
        self.admitted: list[tuple[int, int]] = []
        self.refused: list[tuple[int, int]] = []

    @property
    def rate(self) -> Fraction:
        """Permits per nanosecond."""
        return self.max_rate / self.time_period / SECOND

    def leak(self, now: int) -> None:
        self.level = max(self.level - (now - self.now) * self.rate, Fraction(0))
        self.now = now

    def next(self) -> int:
        oldest = min(self.waiting)
        if self.fair:
            return oldest
        first = min(self.waiting, key=lambda call: (self.waiting[call], call))
        return oldest if first != oldest and self.passed[oldest] + self.waiting[first] > self.burst else first

    def admit(self, call: int, amount: Fraction) -> None:
        self.level += amount
        self.admitted.append((self.now, call))
        for other in self.waiting:
            if other < call:
                self.passed[other] += amount

    def due(self, amount: Fraction) -> int:
        return self.now + max(math.ceil((self.level + amount - self.burst) / self.rate), 0)

    def serve(self) -> None:
        while self.waiting and self.due(self.waiting[call := self.next()]) == self.now:
            amount = self.waiting.pop(call)
            self.admit(call, amount)

    def run(self, nanoseconds: int) -> None:
        end = self.now + nanoseconds
        while self.waiting and (due := self.due(self.waiting[self.next()])) <= end:
            self.leak(due)
            self.serve()
        self.leak(end)

    def fits(self, amount: Fraction) -> bool:
        """Whether a newcomer is admitted now."""
        if self.level + amount > self.burst:
            return False
        if not self.waiting or not amount:
            return True
        return not self.fair and self.passed[min(self.waiting)] + amount <= self.burst

    def acquire(self, call: int, amount: Fraction) -> None:
        if amount > self.burst:
            self.refused.append((self.now, call))
        elif self.fits(amount):
            self.admit(call, amount)
        else:
            self.waiting[call] = amount
            self.passed[call] = Fraction(0)

    def cancel(self, call: int) -> None:
        del self.waiting[call]
        self.serve()

    def change(self, max_rate: Fraction, time_period: Fraction, burst: Fraction) -> None:
        self.max_rate, self.time_period, self.burst = max_rate, time_period, burst
        self.passed = {call: min(self.passed[call], burst) for call in self.waiting}
        for call, amount in list(self.waiting.items()):
            if amount > burst:
                del self.waiting[call]
                self.refused.append((self.now, call))
        self.serve()


# Rates whose arithmetic is exact in the engine too: a permit and a nanosecond are whole numbers of units.
max_rates = st.sampled_from([0.25, 0.5, 1.0, 3.0, 7.0, 10.0, 50.0, 1000.0])
time_periods = st.sampled_from([0.001, 0.125, 1.0, 3.0, 60.0])
bursts = st.sampled_from([0.5, 1.0, 2.5, 10.0, 64.0])
# Of a burst, in sixty-fourths, so that amounts are exact.
shares = st.integers(0, 64)
nanoseconds = st.one_of(st.integers(0, 200), st.integers(0, 10 * SECOND))


class Machine(RuleBasedStateMachine):
    """Does the same to the limiter and to the model.

    A change of rate keeps the level to the precision of a float. So it is made only where that is exact, and one half
    of the runs keeps to times at which it is.
    """

    def __init__(self, AsyncLimiter: Any, simulation: Any) -> None:
        super().__init__()
        self.make = AsyncLimiter
        self.simulate = simulation
        self.simulation: Any = None

    @initialize(max_rate=max_rates, time_period=time_periods, burst=bursts, fair=st.booleans(), fine=st.booleans())
    def begin(self, max_rate: float, time_period: float, burst: float, fair: bool, fine: bool) -> None:
        self.fine = fine
        limiter = self.make(max_rate, time_period, burst=burst, fair=fair)
        self.simulation = self.simulate(limiter)
        self.model = Model(Fraction(max_rate), Fraction(str(time_period)), Fraction(burst), fair)

    @rule(share=shares)
    def acquire(self, share: int) -> None:
        amount = share * float(self.model.burst) / 64
        self.model.acquire(self.simulation.acquire(amount), Fraction(amount))

    @rule(share=shares, count=st.integers(2, 20))
    def acquire_several(self, share: int, count: int) -> None:
        for _ in range(count):
            self.acquire(share)

    @rule(share=shares)
    def ask(self, share: int) -> None:
        amount = share * float(self.model.burst) / 64
        limiter = self.simulation.limiter
        has_capacity = self.model.level + Fraction(amount) <= self.model.burst
        assert self.simulation.inside(lambda: limiter.has_capacity(amount)) == has_capacity
        wait = self.simulation.inside(lambda: limiter.wait_time(amount))
        assert (wait == 0) == self.model.fits(Fraction(amount))
        if not self.model.waiting:
            assert round(wait * SECOND) == self.model.due(Fraction(amount)) - self.model.now

    @precondition(lambda self: self.fine)
    @rule(nanoseconds=nanoseconds)
    def pass_time(self, nanoseconds: int) -> None:
        self.simulation.run(nanoseconds)
        self.model.run(nanoseconds)

    @rule(share=st.integers(0, 200))
    def drain(self, share: int) -> None:
        """Pass so many sixty-fourths of the time in which the bucket drains, in sixty-fourths of the period."""
        steps = math.ceil(share * self.model.burst / self.model.max_rate)
        self.pass_time(int(steps * self.model.time_period * SECOND / 64))

    @precondition(lambda self: self.simulation.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.simulation.waiting))
        self.simulation.cancel(call)
        self.model.cancel(call)

    @precondition(lambda self: self.level_is_exact())
    @rule(max_rate=max_rates, time_period=time_periods)
    def change_rate(self, max_rate: float, time_period: float) -> None:
        limiter = self.simulation.limiter
        self.simulation.inside(lambda: setattr(limiter, "max_rate", max_rate))
        self.simulation.inside(lambda: setattr(limiter, "time_period", time_period))
        self.model.change(Fraction(max_rate), self.model.time_period, self.model.burst)
        self.model.change(Fraction(max_rate), Fraction(str(time_period)), self.model.burst)

    @precondition(lambda self: self.level_is_exact())
    @rule(burst=bursts)
    def change_burst(self, burst: float) -> None:
        self.simulation.inside(lambda: setattr(self.simulation.limiter, "burst", burst))
        self.model.change(self.model.max_rate, self.model.time_period, Fraction(burst))

    def level_is_exact(self) -> bool:
        denominator = self.model.level.denominator
        return denominator <= 2**20 and denominator.bit_count() == 1

    @invariant()
    def agree(self) -> None:
        if self.simulation is not None:
            assert self.simulation.admitted == self.model.admitted
            assert self.simulation.refused == self.model.refused
            assert self.simulation.waiting == sorted(self.model.waiting)

    def teardown(self) -> None:
        if self.simulation is not None:
            self.simulation.close()


def test_admits_whom_the_model_admits_at_the_same_nanosecond(AsyncLimiter: Any, simulation: Any) -> None:
    machine: Any = lambda: Machine(AsyncLimiter, simulation)  # noqa: E731
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=150, stateful_step_count=40, deadline=None),
    )


shares_of_burst = st.one_of(st.floats(0, 1), st.sampled_from([0.1, 0.2, 0.5, 1.0]))


@settings(max_examples=150, deadline=None)
@given(
    max_rate=st.floats(0.01, 1e5),
    time_period=st.sampled_from([0.001, 0.7, 1.0, 3.3, 60.0]),
    burst=st.floats(0.3, 50),
    fair=st.booleans(),
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["acquire", "acquire", "race", "try", "wait"]), shares_of_burst),
            st.tuples(st.sampled_from(["run", "max_rate", "burst"]), st.floats(0.3, 3)),
            st.tuples(st.sampled_from(["cancel", "cancel after the grant"]), st.integers(0, 50)),
        ),
        min_size=20,
        max_size=60,
    ),
)
def test_both_engines_do_the_same_to_the_nanosecond_whatever_the_numbers(
    both_engines: Any,
    simulation: Any,
    max_rate: float,
    time_period: float,
    burst: float,
    fair: bool,
    steps: list[tuple[str, Any]],
) -> None:
    drained = burst / max_rate * time_period * SECOND

    def history(engine: Any) -> Any:
        limiter = engine.AsyncLimiter(max_rate, time_period, burst=burst, fair=fair)
        sim = simulation(limiter)
        said: list[Any] = []

        def ask(method: Any, amount: float) -> Any:
            try:
                return method(amount)
            except ValueError as error:
                return str(error)

        try:
            for step, value in steps:
                if step in ("acquire", "race"):
                    sim.acquire(value * burst, settle=step == "acquire")
                elif step in ("try", "wait"):
                    method = limiter.try_acquire if step == "try" else limiter.wait_time
                    said.append(sim.inside(lambda method=method, value=value: ask(method, value * burst)))
                elif step == "run":
                    sim.run(round(value * drained))
                elif step == "max_rate":
                    sim.inside(lambda value=value: setattr(limiter, "max_rate", max_rate * value))
                elif step == "burst":
                    sim.inside(lambda value=value: setattr(limiter, "burst", burst * value))
                elif sim.waiting:
                    if step == "cancel after the grant":
                        sim.clock.advance(drained / SECOND / 3)
                        sim.turn()
                    if sim.waiting:
                        sim.cancel(sim.waiting[value % len(sim.waiting)])
                said.append(repr(limiter).partition("[")[2])
            sim.run(round(3 * drained))
            return sim.admitted, sim.refused, said
        finally:
            sim.close()

    extension, twin = both_engines
    assert history(extension) == history(twin)
