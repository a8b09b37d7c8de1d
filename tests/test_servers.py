"""The servers of the tests run, and the bad link is as bad as it says."""

from __future__ import annotations

import socket
import time

import psycopg
import pytest
import redis
from servers import HOST, PostgresServer, Proxy, RedisCluster, RedisServer, close_cluster_client


def test_redis_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_postgres_answers(postgres_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_postgres_comes_back_with_its_data_after_a_kill(postgres_server: PostgresServer) -> None:
    with psycopg.connect(postgres_server.dsn) as connection:
        connection.execute("create table kept (n int)")
    postgres_server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres_server.dsn)
    postgres_server.start()
    with psycopg.connect(postgres_server.dsn) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)


def test_a_redis_cluster_finds_each_key(redis_cluster: RedisCluster) -> None:
    client = redis.RedisCluster.from_url(redis_cluster.url)
    assert all(client.set(f"key{number}", number) for number in range(30))
    close_cluster_client(client)


def test_the_link_delays_cuts_stalls_refuses_and_mends(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:

        def link() -> socket.socket:
            return socket.create_connection((HOST, proxy.port), 1)

        def ping(connection: socket.socket) -> bytes:
            connection.settimeout(1)
            connection.sendall(b"INCR pings\r\n")
            return connection.recv(100)

        with link() as connection:
            assert ping(connection) == b":1\r\n"
            proxy.delay = 0.05
            began = time.monotonic()
            assert ping(connection) == b":2\r\n"
            assert time.monotonic() - began >= 0.1
            proxy.delay = 0
            proxy.stalled = True
            with pytest.raises(socket.timeout):
                ping(connection)
            proxy.stalled = False
            assert connection.recv(100) == b":3\r\n"
            proxy.cut = True
            with pytest.raises(ConnectionResetError):
                ping(connection)
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            link()
        proxy.accept()
        with link() as connection:
            assert ping(connection) == b":5\r\n"
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                ping(connection)
