"""Hear hints: LISTEN on the supervisor's connection, or beside a pooler on one of its own.

Hints save up to a second of waiting, nothing depends on them. So a LISTEN that fails is tried again
now and then, and whoever runs the worker is told when no notification arrives.
"""

from __future__ import annotations

import time

import psycopg

from django_taskq import clocks, conf, db
from django_taskq.events import worker_log
from django_taskq.transitions import enqueue
from django_taskq.transitions.enqueue import CHANNEL
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.store import brief

# How long our own notification may be under way. When to connect again: after a loss, after a try.
_PATIENCE, _SOON, _AGAIN = 5.0, 1.0, 60.0
# The supervisor waits while a connection of the listener's own is opened, in whole seconds.
_CONNECT_TIMEOUT = 2
# What we send to ourselves begins with this; hints are empty.
_PROBE = "probe:"


class Listener:
    """The supervisor's ear."""

    def __init__(self, options: WorkerOptions, worker_id: str) -> None:
        settings = conf.get()
        self.alias = options.database
        self.dsn = settings.listen_dsn
        # A pooler takes a LISTEN, and no notification ever comes.
        self.is_on = options.listen and bool(self.dsn or not settings.pooled)
        # Where notifications arrive; None while there is none.
        self.connection: db.Connection | None = None
        self._probe = f"{_PROBE}{worker_id}"
        # When to connect, where there is an address of its own.
        self._connect_at = 0.0
        # Our own notification is to be sent; until when it has to arrive, if it is under way.
        self._probes = False
        self._probed_until: float | None = None

    def use(self, connection: db.Connection) -> None:
        """Listen on the supervisor's new connection, unless there is an address of its own."""
        if self.is_on and not self.dsn:
            self._listen(connection)

    def tend(self, now: float) -> None:
        """Connect if that is due; see to it that notifications arrive."""
        if self._is_to_connect and now >= self._connect_at:
            self._connect(now)
        if self._probes:
            self._send_probe(now)
        if self._probed_until is not None and now >= self._probed_until:
            self._probed_until = None
            worker_log.warning(
                "LISTEN does not work: a notification to ourselves did not arrive within %g s. "
                "New tasks start within a second. %s",
                _PATIENCE,
                'DJANGO_TASKQ["LISTEN_DSN"] has to lead around any pooler to the same database.'
                if self.dsn
                else 'Behind a pooler set DJANGO_TASKQ["POOLED"] and "LISTEN_DSN".',
            )

    def wake_at(self) -> float | None:
        """Return when `tend` has something to do."""
        return self._connect_at if self._is_to_connect else self._probed_until

    def hear(self) -> bool:
        """Read notifications; say whether one of them is a hint.

        Raise Trouble when the connection is the supervisor's and lost.
        """
        heard = False
        try:
            for notification in self.connection.notifies(timeout=0) if self.connection else ():
                if notification.payload == self._probe:
                    self._probed_until = None
                heard = heard or not notification.payload.startswith(_PROBE)
        except db.Trouble as error:
            if not self.dsn:
                raise
            self.forget()
            self._connect_at = time.monotonic() + _SOON
            worker_log.warning("The connection for LISTEN is lost: %s", brief(error))
        return heard

    def forget(self) -> None:
        """Listen no more on the connection that there is; close it if it is the listener's own."""
        if self.dsn and self.connection is not None:
            self.connection.close()
        self.connection = self._probed_until = None
        self._probes = False

    @property
    def _is_to_connect(self) -> bool:
        return self.is_on and bool(self.dsn) and self.connection is None

    def _connect(self, now: float) -> None:
        try:
            self._listen(
                db.listening_connection(
                    self.alias,
                    self.dsn,
                    connect_timeout=_CONNECT_TIMEOUT,
                    answer_within=clocks.ANSWER,
                )
            )
            worker_log.info('Listening at the address in DJANGO_TASKQ["LISTEN_DSN"].')
        except psycopg.Error as error:
            self._connect_at = now + _AGAIN
            worker_log.warning(
                'No LISTEN at the address in DJANGO_TASKQ["LISTEN_DSN"] (%s); trying again in '
                "%g s. Until then new tasks start within a second.",
                brief(error),
                _AGAIN,
            )

    def _listen(self, connection: db.Connection) -> None:
        connection.execute(f"LISTEN {CHANNEL}")
        self.connection = connection
        self._probes = True

    def _send_probe(self, now: float) -> None:
        """Notify ourselves by another connection, as others will.

        What was sent on the listening connection would be seen there even through a pooler.
        """
        self._probes = False
        try:
            with db.worker_connection(
                self.alias, name="taskworker probe", answer_within=clocks.ANSWER
            ) as other:
                enqueue.probe(other, self._probe)
        except db.Trouble:
            return  # the database is going away, which others will say
        self._probed_until = now + _PATIENCE
