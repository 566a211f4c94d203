"""The faulty proxy of the tests loses what it is told to lose, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from tests.support.proxy import Cut, Proxy, Way, serve_proxy, watch
from tests.support.waiting import until

MARKED = "/* here */ INSERT INTO kept (n) VALUES (1)"


@pytest.fixture(scope="module")
def proxy(server_url: str) -> Iterator[Proxy]:
    with serve_proxy(server_url) as running:
        yield running


@pytest.fixture(autouse=True)
def clean(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.clear()
    proxy.cut_all()


@pytest.fixture
def database(server_url: str) -> str:
    with psycopg.connect(server_url) as connection:
        return connection.info.dbname


def connect(proxy: Proxy, database: str) -> psycopg.Connection[tuple[int]]:
    return psycopg.connect(proxy.url(database), autocommit=True, connect_timeout=10)


def test_what_a_client_asks_is_answered_through_it(proxy: Proxy, database: str) -> None:
    with connect(proxy, database) as connection:
        assert connection.execute("SELECT count(*) FROM generate_series(1, 50000)").fetchone() == (
            50000,
        )
        assert len(connection.execute("SELECT repeat('x', 300000)").fetchone()[0]) == 300_000  # type: ignore
        assert proxy.connections == 1
    until(lambda: proxy.connections == 0, "the connection ends with the client's")


@pytest.mark.parametrize("after", [0, 1, 12])
@pytest.mark.parametrize("way", ["request", "answer"])
def test_a_statement_is_cut_at_a_byte_of_it_or_of_its_answer(
    proxy: Proxy, database: str, server_url: str, way: Way, after: int
) -> None:
    with psycopg.connect(server_url, autocommit=True) as direct:
        direct.execute("DROP TABLE IF EXISTS kept")
        direct.execute("CREATE TABLE kept (n int)")
        try:
            with connect(proxy, database) as connection:
                connection.execute("SELECT 1")
                cut = proxy.add(Cut(b"/* here */", way, after=after, nth=2))
                connection.execute(MARKED)
                with pytest.raises(psycopg.OperationalError):
                    connection.execute(MARKED)
                assert cut.happened.wait(5)
                assert cut.passed[way] == after
            rows = 1 if way == "request" else 2
            assert direct.execute("SELECT count(*) FROM kept").fetchone() == (rows,)
        finally:
            direct.execute("DROP TABLE kept")


def test_other_connections_outlive_a_cut(proxy: Proxy, database: str) -> None:
    with connect(proxy, database) as other, connect(proxy, database) as cut:
        proxy.add(Cut(b"mine"))
        with pytest.raises(psycopg.OperationalError):
            cut.execute("SELECT 'mine'")
        assert other.execute("SELECT 'mine'").fetchone() == ("mine",)


def test_a_cut_of_the_startup_keeps_a_client_out_once(proxy: Proxy, database: str) -> None:
    proxy.add(Cut(after=5))
    with pytest.raises(psycopg.OperationalError):
        connect(proxy, database)
    connect(proxy, database).close()


def test_the_bytes_of_a_statement_and_of_its_answer_are_counted(
    proxy: Proxy, database: str
) -> None:
    with connect(proxy, database) as connection:
        seen = proxy.add(watch(b"counted"))
        connection.execute("SELECT 'counted' || repeat('x', 1000)")
    assert 30 < seen.passed["request"] < 200
    assert 1000 < seen.passed["answer"] < 1200


def test_all_connections_can_be_cut_and_kept_out(proxy: Proxy, database: str) -> None:
    with connect(proxy, database) as one, connect(proxy, database) as other:
        assert proxy.cut_all(refuse=True) == 2
        for connection in (one, other):
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            connect(proxy, database)
        proxy.clear()
        connect(proxy, database).close()


@pytest.mark.parametrize("way", ["request", "answer"])
def test_what_falls_into_a_hole_comes_out_when_it_is_closed(
    proxy: Proxy, database: str, way: Way
) -> None:
    with connect(proxy, database) as connection, ThreadPoolExecutor(1) as pool:
        proxy.hold(way)
        asking = pool.submit(connection.execute, "SELECT 1")
        with pytest.raises(TimeoutError):
            asking.result(0.1)
        assert proxy.connections == 1
        proxy.clear()
        assert asking.result(10).fetchone() == (1,)


@pytest.mark.parametrize("way", ["request", "answer"])
def test_what_is_delayed_comes_later(proxy: Proxy, database: str, way: Way) -> None:
    with connect(proxy, database) as connection:
        proxy.delay(way, 0.2)
        began = time.monotonic()
        connection.execute("SELECT 1")
        assert time.monotonic() - began >= 0.2
