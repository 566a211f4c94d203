"""A small HTTP server for probes: GET /live and /ready, each 200 or 503 with a line of JSON."""

from __future__ import annotations

import contextlib
import json
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6, SHUT_RDWR
from typing import Any

# Says whether all is well, and what is known of it.
Answer = Callable[[], tuple[bool, dict[str, Any]]]


class HealthPortTaken(Exception):
    """The address of --health-port cannot be listened on; the message says why."""


class HealthServer:
    """Answers in threads of its own until it is closed."""

    def __init__(self, host: str, port: int, answers: Mapping[str, Answer]) -> None:
        """Listen. Raise HealthPortTaken if that address cannot be had."""
        kind = _Server6 if ":" in host else _Server
        try:
            self._server = kind((host, port), _handler(answers))
        except OSError as error:
            raise HealthPortTaken(
                f"--health-port {host}:{port} cannot be listened on: {error.strerror or error}."
            ) from None
        threading.Thread(
            target=self._server.serve_forever, name="taskq-health", daemon=True
        ).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


# A request has to be complete after so many seconds, however slowly its client sends; and of more
# connections than this, the oldest is closed: a probe is always answered, by few threads.
_REQUEST_TIME, _MOST_CONNECTIONS = 5.0, 64


class _Server(ThreadingHTTPServer):
    address_family = AF_INET
    # Of those that come at once, none has to knock a second time, a second later.
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        # Open connections, the oldest first, and when each has to be done with.
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = time.monotonic() + _REQUEST_TIME
            crowd = list(self._open)[:-_MOST_CONNECTIONS]
        for oldest in crowd:
            self._hang_up(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on whoever takes too long; called twice a second."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, end in self._open.items() if now >= end]
        for request in late:
            self._hang_up(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that break: they are hung up on, or hang up."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def _hang_up(self, request: Any) -> None:
        # Its thread sees the end of the connection, and closes it.
        with self._lock:
            self._open.pop(request, None)
        with contextlib.suppress(OSError):
            request.shutdown(SHUT_RDWR)

    def server_bind(self) -> None:
        # HTTPServer would ask the name server for the name of the host, which may take long.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "taskworker", 0


class _Server6(_Server):
    address_family = AF_INET6


def _handler(answers: Mapping[str, Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "taskworker"
        sys_version = ""
        # Seconds for whoever connects and then says nothing.
        timeout = 5

        def do_GET(self) -> None:
            answer = answers.get(self.path.partition("?")[0])
            if answer is None:
                self._send(404, {"error": f"Ask for {' or '.join(answers)}."})
            else:
                is_well, facts = answer()
                self._send(200 if is_well else 503, {"ok": is_well, **facts})

        do_HEAD = do_GET

        def _send(self, code: int, facts: dict[str, Any]) -> None:
            text = json.dumps(facts).encode() + b"\n"
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def send_error(
            self, code: int, message: str | None = None, explain: str | None = None
        ) -> None:
            """Answer what is no proper request with as few words, and nothing of what was sent."""
            self.close_connection = True
            self._send(code, {"error": "Ask by GET or HEAD."})

        def log_message(self, format: str, *args: Any) -> None:
            """Leave probes out of the log: they come every few seconds."""

    return Handler
