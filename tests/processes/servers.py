"""A PostgreSQL that a test may crash."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import psycopg

from example_project import embedded_postgres


class PrivateServer:
    """A PostgreSQL that a test may crash and bring back at the same address."""

    def __init__(self, url: str) -> None:
        self.url = url
        with psycopg.connect(url) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        self.data = row[0]
        self._log = str(Path(self.data).parent / "postgres.log")
        socket = Path(url.partition("host=")[2])
        owner = Path(self.data).stat()
        self._programs = embedded_postgres.Programs(
            (socket.parent / "bin").resolve(),
            (owner.st_uid, owner.st_gid) if os.geteuid() == 0 else None,
        )
        # The first word is the program; the others are what it was started with.
        options = shlex.split((Path(self.data) / "postmaster.opts").read_text())[1:]
        self._options = shlex.join(options)

    def crash(self) -> None:
        """Stop without ado: connections break, and a recovery follows at the next start."""
        self._call("stop", "-w", "-m", "immediate")

    def start(self) -> None:
        """Bring it back."""
        self._call("start", "-w", "-l", self._log, "-o", self._options)

    def log(self) -> str:
        """Return what it has logged."""
        return Path(self._log).read_text(errors="replace")

    def _call(self, *arguments: str) -> None:
        answer = self._programs.call("pg_ctl", *arguments, "-s", "-D", self.data)
        assert answer.returncode == 0, answer.stderr
