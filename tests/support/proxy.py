"""A TCP proxy in front of PostgreSQL that loses connections where a test says so.

It knows the messages of PostgreSQL's protocol, so that a cut can be placed at a byte of the
statement that a comment names: `Cut(b"django_taskq:claim", "answer", after=7)`. TLS is not spoken.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, get_args
from urllib.parse import quote

import psycopg

# From the client to the server, and back.
Way = Literal["request", "answer"]

T = TypeVar("T")

_NEVER = 1 << 60
# Messages for whose answer a client waits: Sync and Query.
_WAITED_FOR = (b"S", b"Q")

# What a client may ask for before its startup message: TLS and GSSAPI. The server says no.
_BEFORE_STARTUP = (80877103, 80877104)


class Address(NamedTuple):
    """Where a server is; a host that is a directory holds its socket."""

    host: str
    port: int
    user: str
    password: str


@dataclass(eq=False)
class Cut:
    """Reset a connection at the n-th message that contains a text, once."""

    # b"" is in every message, that of the startup too.
    text: bytes = b""
    way: Way = "request"
    # How many bytes still pass this way: of a request from the message's first byte on, of the
    # answer from the first one after it. None: the whole message; nothing of the answer.
    after: int | None = None
    nth: int = 1
    # Set when it has happened.
    happened: threading.Event = field(default_factory=threading.Event)
    # What has passed since the message came, in bytes.
    passed: dict[Way, int] = field(default_factory=lambda: {"request": 0, "answer": 0})


def watch(text: bytes, *, nth: int = 1) -> Cut:
    """Return a cut that never happens: it counts the bytes of a statement and of its answer.

    That is, until the client, who has waited for the answer, sends something else.
    """
    return Cut(text, "answer", after=_NEVER, nth=nth)


class Proxy:
    """Pass bytes on; a test may cut, hold or delay them, from any thread."""

    def __init__(self, server: Address) -> None:
        self._server = server
        self._cuts: list[Cut] = []
        self._links: set[_Link] = set()
        self._delays: dict[Way, float] = {"request": 0.0, "answer": 0.0}
        self._refuses = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._open: dict[Way, asyncio.Event] = {way: asyncio.Event() for way in get_args(Way)}
        self._over = asyncio.Event()
        self._port: Future[int] = Future()
        self._clear()

    # --- what a test does ------------------------------------------------------------------------

    def url(self, database: str) -> str:
        """Return the URL by which a database is reached through it."""
        who = quote(self._server.user, safe="")
        if self._server.password:
            who += f":{quote(self._server.password, safe='')}"
        return f"postgresql://{who}@127.0.0.1:{self._port.result()}/{database}"

    def add(self, cut: Cut) -> Cut:
        """Let a cut happen, now or later, on whichever connection it comes to."""
        self._in_loop(lambda: self._cuts.append(cut))
        return cut

    def clear(self) -> None:
        """Forget cuts that have not happened, holds, delays and refusals."""
        self._in_loop(self._clear)

    def _clear(self) -> None:
        self._cuts.clear()
        for link in self._links:
            link.cuts.clear()
        self._delays.update(request=0.0, answer=0.0)
        self._refuses = False
        for way in self._open.values():
            way.set()

    def cut_all(self, *, refuse: bool = False) -> int:
        """Reset every connection at once; say how many. `refuse`: new ones too, until `clear`."""

        def cut() -> int:
            self._refuses = self._refuses or refuse
            links = list(self._links)
            for link in links:
                link.reset()
            return len(links)

        return self._in_loop(cut)

    def hold(self, *ways: Way) -> None:
        """Let nothing pass these ways until `clear`, as in a black hole: all stays connected."""
        self._in_loop(lambda: [self._open[way].clear() for way in ways])

    def delay(self, way: Way, seconds: float) -> None:
        """Keep whatever goes this way for some time."""
        self._in_loop(lambda: self._delays.update({way: seconds}))

    @property
    def connections(self) -> int:
        """Return how many connections there are."""
        return self._in_loop(lambda: len(self._links))

    # --- its thread ------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()
        self._port.result(10)

    def stop(self) -> None:
        """Reset all connections and end."""
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _in_loop(self, call: Callable[[], T]) -> T:
        async def called() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port.set_result(server.sockets[0].getsockname()[1])
        await self._over.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for link in self._links:
            link.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            _reset(writer)
            return
        info = self._server
        try:
            server = await (
                asyncio.open_unix_connection(f"{info.host}/.s.PGSQL.{info.port}")
                if info.host.startswith("/")
                else asyncio.open_connection(info.host, info.port)
            )
        except OSError:  # the server is down, and so are we
            _reset(writer)
            return
        link = _Link(self, (reader, writer), server)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: Any, server: Any) -> None:
        self.proxy = proxy
        self.client: tuple[asyncio.StreamReader, asyncio.StreamWriter] = client
        self.server: tuple[asyncio.StreamReader, asyncio.StreamWriter] = server
        # Those whose message has come on this connection.
        self.cuts: list[Cut] = []
        self._is_answered = True

    async def run(self) -> None:
        """Pass on what comes, until one side ends or a cut happens."""
        for _, writer in (self.client, self.server):
            writer.transport.set_write_buffer_limits(high=0)  # so that `drain` empties it
        ways = [asyncio.ensure_future(way()) for way in (self._requests, self._answers)]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.reset()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def reset(self) -> None:
        for _, writer in (self.client, self.server):
            _reset(writer)

    async def _requests(self) -> None:
        async for message in _messages(self.client[0]):
            self._look_at(message)
            await self._pass("request", message, self.server[1])

    async def _answers(self) -> None:
        while data := await self.server[0].read(1 << 16):
            await self._pass("answer", data, self.client[1])

    def _look_at(self, message: bytes) -> None:
        """Let those cuts begin that wait for this message."""
        if self._is_answered:  # what comes now belongs to something else
            self.cuts = [cut for cut in self.cuts if cut.after != _NEVER]
        self._is_answered = message[:1] in _WAITED_FOR
        for cut in [cut for cut in self.proxy._cuts if cut.text in message]:
            cut.nth -= 1
            if cut.nth == 0:
                if cut.after is None:
                    cut.after = len(message) if cut.way == "request" else 0
                self.proxy._cuts.remove(cut)
                self.cuts.append(cut)

    async def _pass(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        if seconds := self.proxy._delays[way]:
            await asyncio.sleep(seconds)
        await self.proxy._open[way].wait()
        cutting = None
        for cut in self.cuts:
            if cut.way == way and cut.passed[way] + len(data) >= (cut.after or 0):
                cutting, data = cut, data[: (cut.after or 0) - cut.passed[way]]
        for cut in self.cuts:
            cut.passed[way] += len(data)
        if data:
            writer.write(data)
            await writer.drain()
        if cutting is not None:
            self.cuts.remove(cutting)
            self.reset()
            cutting.happened.set()


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the messages of a client, each whole; the first have no letter before their length."""
    letter = 0
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readexactly(letter + 4)
            length = int.from_bytes(head[letter:], "big")
            body = await reader.readexactly(length - 4)
            yield head + body
            if not letter and int.from_bytes(body[:4], "big") not in _BEFORE_STARTUP:
                letter = 1


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection as one that has broken: with a reset, and without what is still to go."""
    endpoint = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if endpoint.family != socket.AF_UNIX:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def serve_proxy(server_url: str) -> Iterator[Proxy]:
    """Run a proxy in front of a server, which may listen on a Unix socket."""
    with psycopg.connect(server_url) as connection:
        info = connection.info
        proxy = Proxy(Address(info.host, info.port, info.user, info.password))
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
