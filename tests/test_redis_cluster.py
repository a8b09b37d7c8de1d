"""A limit in a cluster whose slots move and whose nodes go: it is followed, counted once, and used again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from redis_subjects import Subject, fresh_key, subject
from servers import RedisCluster, RedisServer, wait_until

from aiolimiter_fast import BackendUnavailable, Rate, RedisStateStore, StateBucket

HOUR = 3_600_000
PLENTY = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """One of this file's own, since its slots move."""
    with RedisCluster() as made:
        yield made


@pytest.fixture(params=["sync cluster", "async cluster"])
def on(request: pytest.FixtureRequest, cluster: RedisCluster) -> Iterator[Subject]:
    with subject(request.param, cluster.url) as made:
        yield made


@pytest.fixture(params=["log", "state"])
def bucket(request: pytest.FixtureRequest, on: Subject) -> Any:
    rates = [Rate(4, HOUR)]
    if request.param == "log":
        return on.bucket(rates, budget=PLENTY)
    return StateBucket(rates, store=RedisStateStore(on.client, fresh_key(), budget=PLENTY))


def key_of(bucket: Any) -> str:
    return str(getattr(bucket, "bucket_key", None) or bucket.store.key)


class Move:
    """Moves a key's slot from the node that has it to another, in steps."""

    def __init__(self, cluster: RedisCluster, key: str) -> None:
        self.nodes = cluster.nodes
        self.key = key
        self.slot = answer(self.nodes[0], "CLUSTER", "KEYSLOT", key)
        self.source = next(each for each in self.nodes if not each.call("EXISTS", key).startswith(b"-MOVED"))
        self.target = next(each for each in self.nodes if each is not self.source)

    def begin(self) -> None:
        """From now on the source has the slot without the key, and sends whoever asks for it to the target."""
        source, target = (node_id(each) for each in (self.source, self.target))
        assert self.target.call("CLUSTER", "SETSLOT", self.slot, "IMPORTING", source) == b"+OK\r\n"
        assert self.source.call("CLUSTER", "SETSLOT", self.slot, "MIGRATING", target) == b"+OK\r\n"
        moved = self.source.call("MIGRATE", "127.0.0.1", str(self.target.port), self.key, "0", "5000")
        assert moved in (b"+OK\r\n", b"+NOKEY\r\n")

    def end(self) -> None:
        """From now on the target has the slot."""
        for each in (self.target, self.source, *self.nodes):
            assert each.call("CLUSTER", "SETSLOT", self.slot, "NODE", node_id(self.target)) == b"+OK\r\n"


def answer(node: RedisServer, *words: str) -> str:
    return node.call(*words).decode().split("\r\n")[0].lstrip(":+")


def node_id(node: RedisServer) -> str:
    return node.call("CLUSTER", "MYID").decode().split("\r\n")[1]


def test_a_limit_is_followed_while_its_slot_moves_and_afterwards(
    on: Subject, cluster: RedisCluster, bucket: Any
) -> None:
    assert on.put(bucket)
    move = Move(cluster, key_of(bucket))
    move.begin()
    assert on.put(bucket)
    assert on.run(bucket.count()) == 2
    move.end()
    assert [on.put(bucket) for _ in range(3)] == [True, True, False]
    assert on.run(bucket.count()) == 4


def test_a_node_that_is_gone_is_an_outage_of_its_limits_only_and_is_found_again(
    on: Subject, cluster: RedisCluster
) -> None:
    buckets = [on.bucket([Rate(3, HOUR)], budget=PLENTY) for _ in range(40)]
    assert all(on.put(each) for each in buckets)
    gone = cluster.nodes[2]
    its = [each for each in buckets if not gone.call("EXISTS", key_of(each)).startswith(b"-MOVED")]
    others = [each for each in buckets if each not in its]
    assert its
    assert others
    gone.pause()
    for each in others:
        assert on.put(each)
    for each in its:
        each.outages.budget = 0.05
        with pytest.raises(BackendUnavailable):
            on.put(each)
        each.outages.budget = PLENTY
    gone.resume()
    for each in its:
        wait_until(partial(answers, on, each), "an answer")


def answers(on: Subject, bucket: Any) -> bool:
    try:
        return bool(on.run(bucket.count()) >= 1)
    except BackendUnavailable:
        return False
