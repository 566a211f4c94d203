"""Start a real PgBouncer in front of the tests' server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

_CONFIGURATION = """
[databases]
* = {server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 200
ignore_startup_parameters = {ignored}
server_idle_timeout = 5
"""


class PgBouncer:
    """A PgBouncer in transaction mode that a test may stop and start."""

    def __init__(self, program: str, directory: Path, port: int, owner: int | None) -> None:
        self.port = port
        self._command = [program, str(directory / "pgbouncer.ini")]
        self._log = directory / "pgbouncer.log"
        self._owner = owner
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """Return the URL by which a database is reached through it."""
        return f"postgresql://somebody@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, user=self._owner, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)

    def stop(self) -> None:
        """End it at once; its connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)


@contextmanager
def serve_pgbouncer(
    server_url: str, *, pool_size: int = 2, ignored: str = "extra_float_digits"
) -> Iterator[PgBouncer]:
    """Run a PgBouncer whose pools are smaller than the number of its clients."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("NOT TESTED: no pgbouncer here (on Debian: apt-get install pgbouncer)")
    owner = _owner(server_url)
    directory = Path(tempfile.mkdtemp(prefix="taskq-pgbouncer-"))
    try:
        bouncer = PgBouncer(program, directory, _free_port(), owner)
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                server=_server(server_url),
                port=bouncer.port,
                pool_size=pool_size,
                ignored=ignored,
            )
        )
        if owner is not None:
            for path in (directory, configuration):
                os.chown(path, owner, -1)
        bouncer.start()
        try:
            yield bouncer
        finally:
            bouncer.stop()
    finally:
        shutil.rmtree(directory)


def _server(server_url: str) -> str:
    """Return where PgBouncer connects to: all but the database, which the client names."""
    with psycopg.connect(server_url) as connection:
        info = connection.info
        parts = {"host": info.host, "port": info.port, "user": info.user, "password": info.password}
    return " ".join(f"{key}='{value}'" for key, value in parts.items() if value)


def _owner(server_url: str) -> int | None:
    """Return who runs it when we are root, which PgBouncer refuses to be run by."""
    if os.geteuid() != 0:
        return None
    # A server for tests keeps its socket in a directory of its own.
    directory = str(conninfo_to_dict(server_url).get("host") or "")
    owner = os.stat(directory).st_uid if directory.startswith("/") else 0
    return owner or pwd.getpwnam("nobody").pw_uid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
