"""Obtain connections: the only file that does.

Two kinds. The *user's* connection is Django's, in whatever transaction the caller is: enqueue runs
there. A *worker* connection is our own psycopg connection, for claims and finishes: usable in any
thread, in autocommit, never from Django's pool, always READ COMMITTED. Where a pooler in
transaction mode stands between (`DJANGO_TASKQ["POOLED"]`), it is a PooledConnection.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import psycopg
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections, transaction
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.types.string import TextLoader

from django_taskq import conf
from django_taskq.deadline import WorkerConnection
from django_taskq.pooled import PooledConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Cursor: TypeAlias = psycopg.Cursor[tuple[Any, ...]]
# What statements can be sent through: `execute` is the same.
Sender: TypeAlias = Connection | Cursor

# What is raised when a statement may succeed a moment later: the server cannot be talked to, the
# connection is closed, others are in the way; or it is a standby that is about to be the primary.
Trouble = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    errors.ReadOnlySqlTransaction,
    errors.IdleInTransactionSessionTimeout,
)
# Among them: others were in the way, and the connection is as good as before.
Contention = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    errors.QueryCanceled,
)
# And what is no trouble: the server will not take what it was sent, however often.
TooMuch = (
    errors.ProgramLimitExceeded,
    errors.StatementTooComplex,
    errors.TooManyArguments,
    errors.TooManyColumns,
)

# What a worker connection asks for: at its start, or through a pooler in each transaction. The
# times bound how long a framework statement waits for a lock or runs; UTC makes texts of timestamps
# sort like the timestamps.
_SESSION = {
    "timezone": "UTC",
    "default_transaction_isolation": "read committed",
    "lock_timeout": "1s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "30s",
    # One plan per statement, whatever its parameters: the one that is tested. And through an index,
    # whatever the statistics: a table that was empty when a plan was made is full a minute later.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}

# Seconds for each try to reach a server, unless the project says otherwise (whoever waits for one
# that is gone obeys no signal meanwhile), and for each answer.
_CONNECT_TIMEOUT, _ANSWER_WITHIN = 5, 45.0

# Types that worker connections leave as text: they are decoded where they are needed, if at all.
_AS_TEXT = ("uuid", "json", "jsonb", "timestamptz")


def user_connection(alias: str) -> BaseDatabaseWrapper:
    """Return Django's connection of this thread. Raise ImproperlyConfigured off PostgreSQL."""
    connection = connections[alias]
    if connection.vendor != "postgresql":
        raise ImproperlyConfigured(
            f'django_taskq keeps its tasks in PostgreSQL, but the database "{alias}" is '
            f"{connection.display_name}. Use django.db.backends.postgresql with psycopg 3."
        )
    return connection


def worker_connection(
    alias: str, *, name: str, answer_within: float = _ANSWER_WITHIN
) -> Connection:
    """Open a connection of our own, with Django's parameters asked anew (passwords may rotate).

    It raises NoAnswer and is closed when an answer takes longer than `answer_within` seconds; by
    default that is longer than a statement may take. Raise ImproperlyConfigured where a pooler does
    not let our settings through.
    """
    parameters = _parameters(alias)
    if not os.environ.get("PGCONNECT_TIMEOUT"):
        parameters.setdefault("connect_timeout", _CONNECT_TIMEOUT)
    parameters["application_name"] = name[:63]
    role = user_connection(alias).settings_dict["OPTIONS"].get("assume_role")
    try:
        connect = _pooled if conf.get().pooled else _direct
        connection = connect(parameters, role, answer_within)
    except psycopg.OperationalError as error:
        if "unsupported startup parameter" in str(error):
            raise ImproperlyConfigured(_refusal(alias)) from error
        raise
    for kind in _AS_TEXT:
        connection.adapters.register_loader(kind, TextLoader)
    return cast(Connection, connection)


def listening_connection(
    alias: str, dsn: str, *, connect_timeout: int, answer_within: float
) -> Connection:
    """Open a connection for LISTEN around a pooler, to where `dsn` leads.

    User, password, database and all else that it leaves out are as for the alias.
    """
    usual = _parameters(alias)
    for where in ("host", "hostaddr", "port"):
        usual.pop(where, None)
    parameters = {**usual, "connect_timeout": connect_timeout, **conninfo_to_dict(dsn)}
    parameters["application_name"] = "taskworker listener"
    connection = WorkerConnection.connect(**parameters, autocommit=True)
    connection.answer_within = answer_within
    return cast(Connection, connection)


def _parameters(alias: str) -> dict[str, Any]:
    """Return what Django would connect with, less what is Django's own affair."""
    parameters: dict[str, Any] = {**user_connection(alias).get_connection_params()}
    for djangos in ("cursor_factory", "context", "prepare_threshold", "autocommit"):
        parameters.pop(djangos, None)
    return parameters


def _direct(parameters: dict[str, Any], role: str | None, answer_within: float) -> WorkerConnection:
    """Connect to PostgreSQL itself: what is set at the start stays set."""
    options = " ".join(f"-c {key}={_escape(value)}" for key, value in _SESSION.items())
    options = f"{parameters.get('options') or ''} {options}".strip()
    connection = WorkerConnection.connect(
        **{**parameters, "options": options}, autocommit=True, prepare_threshold=2
    )
    connection.answer_within = answer_within
    # PgBouncer can be told to accept startup options and to drop them. Without ours, texts of
    # timestamps come in any zone and prepared statements meet those of others.
    row = connection.execute("SELECT current_setting('plan_cache_mode')").fetchone()
    if row != (_SESSION["plan_cache_mode"],):
        connection.close()
        raise ImproperlyConfigured(_DROPPED)
    if role:
        connection.execute(psycopg.sql.SQL("SET ROLE {}").format(psycopg.sql.Identifier(role)))
    return connection


def _pooled(parameters: dict[str, Any], role: str | None, answer_within: float) -> WorkerConnection:
    """Connect to a pooler: no startup options, no prepared statements, settings by transaction."""
    connection = PooledConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
    connection.answer_within = answer_within
    # READ COMMITTED is asked for by BEGIN: set_config() would come after the first snapshot.
    settings = {name: value for name, value in _SESSION.items() if name != _ISOLATION}
    connection.each_transaction({**settings, "role": role} if role else settings)
    return connection


_ISOLATION = "default_transaction_isolation"

_DROPPED = (
    "The settings that a worker asks PostgreSQL for at the start of its connection do not arrive: "
    "a pooler between drops them (PgBouncer with ignore_startup_parameters = options). "
    'Set DJANGO_TASKQ = {"POOLED": True}, or connect the worker to PostgreSQL itself.'
)


def _refusal(alias: str) -> str:
    """Say what to do about a pooler that takes no startup options."""
    if not conf.get().pooled:
        return (
            f'The database "{alias}" is reached through a pooler (PgBouncer) that refuses startup '
            'options. Set DJANGO_TASKQ = {"POOLED": True}, or connect the worker to PostgreSQL '
            "itself."
        )
    return (
        f'The database "{alias}" is reached through a pooler (PgBouncer) that refuses startup '
        f'options, and DATABASES["{alias}"]["OPTIONS"]["options"] or the variable PGOPTIONS holds '
        "some. Move them to the server: ALTER ROLE … SET …, or ALTER DATABASE … SET …"
    )


def forget_plans(connection: Connection) -> None:
    """Have statements planned anew: one planned on an analysed, empty table reads all of it later.

    Costs 40 µs; sent with what is done once a second or less. Through a pooler nothing is prepared,
    and so every statement is planned anew.
    """
    if not isinstance(connection, PooledConnection):
        connection.execute("DISCARD PLANS")


def is_trouble(error: psycopg.Error, connection: Connection | None) -> bool:
    """Say whether a statement that has raised this may succeed on another connection, or later.

    Whatever is said while a connection ends (by a limit of the server's, say) is of that kind.
    """
    return isinstance(error, Trouble) or (connection is not None and connection.closed)


def roll_back(connection: Connection) -> None:
    """Leave a failed transaction, if there is one; a connection that is lost stays lost."""
    if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
        connection.rollback()


def is_alone(connection: BaseDatabaseWrapper) -> bool:
    """Say whether a user's connection is in no transaction and takes several statements at once.

    Whoever has put something around Django's statements (`execute_wrapper`) gets them one by one:
    it may walk through the results, or try again.
    """
    if connection.in_atomic_block or connection.execute_wrappers or not connection.get_autocommit():
        return False
    raw = connection.connection
    return (
        # Somebody may have sent a BEGIN of his own, or be in a pipeline.
        raw.info.transaction_status == TransactionStatus.IDLE
        and raw.pgconn.pipeline_status == PipelineStatus.OFF
        # Binding on the server takes one statement at a time.
        and isinstance(raw.cursor_factory, type)
        and issubclass(raw.cursor_factory, psycopg.ClientCursor)
    )


def leave_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Leave a transaction of ours on a user's connection; say whether there was one.

    A statement that was broken off by an exception of Python's (a time limit) goes on: that
    connection is of no use any more, and whoever gets the exception closes it.
    """
    raw = connection.connection
    if raw is None or raw.closed or raw.info.transaction_status == TransactionStatus.IDLE:
        return False
    if raw.info.transaction_status != TransactionStatus.ACTIVE:
        with contextlib.suppress(psycopg.Error):  # what went wrong first is what counts
            raw.rollback()
    return True


@contextlib.contextmanager
def framework_pipeline(connection: BaseDatabaseWrapper) -> Iterator[Connection]:
    """Send statements of ours on the user's connection in one round trip, prepared if possible.

    Not through Django's cursors: those know no pipeline, and bind on the client's side.
    """
    raw = connection.connection
    threshold = raw.prepare_threshold
    pooled = conf.get().pooled or connection.settings_dict.get("DISABLE_SERVER_SIDE_CURSORS")
    if threshold is None and not pooled:
        # Django switches prepared statements off because some poolers cannot pass them on.
        raw.prepare_threshold = 0
    try:
        with raw.pipeline():
            yield raw
    finally:
        raw.prepare_threshold = threshold


def array(texts: list[str]) -> str:
    """Write a PostgreSQL array literal of texts that need no quotes, such as ids and numbers."""
    return "{" + ",".join(texts) + "}"


def quoted_array(texts: list[str | None]) -> str:
    """Write a PostgreSQL array literal of any texts without NUL; None becomes NULL.

    One pass of C code over all of them: psycopg would spend a microsecond on each.
    """
    if None in texts:
        return "{" + ",".join("NULL" if t is None else f'"{_quote(t)}"' for t in texts) + "}"
    joined = "\x00".join(cast("list[str]", texts))
    return '{"' + _quote(joined).replace("\x00", '","') + '"}' if texts else "{}"


def _quote(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def opened_connections() -> list[BaseDatabaseWrapper]:
    """Return the connections of Django's that this thread has asked for; some may be closed."""
    return list(connections.all(initialized_only=True))


def close_everything() -> None:
    """Close connections and pools: a process that forks must not share them with its children."""
    for connection in opened_connections():
        connection.close()
        close_pool = getattr(connection, "close_pool", None)
        if close_pool is not None:
            close_pool()


def database_names() -> dict[str, str]:
    """Return the name of each alias' database as this process uses it: a test database, say."""
    return {alias: str(connections[alias].settings_dict["NAME"]) for alias in connections}


def switch_pools_off() -> None:
    """Let each thread of a worker process hold one plain connection: a pool would open four."""
    for alias in connections:
        connections.settings[alias].get("OPTIONS", {}).pop("pool", None)


# How often a verb is tried again that ran into another transaction, and what that raises.
_TRIES_AGAIN = 5
_COLLISIONS = (errors.SerializationFailure, errors.DeadlockDetected)

P = ParamSpec("P")
R = TypeVar("R")


def tried_again(verb: Callable[Concatenate[str, P], R]) -> Callable[Concatenate[str, P], R]:
    """Do a verb again that has run into another transaction, on the caller's connection.

    In a transaction of the caller's he hears of it: only he can repeat all of that. `verb` takes
    the alias first.
    """

    @functools.wraps(verb)
    def try_it(alias: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for left in range(_TRIES_AGAIN, -1, -1):
            try:
                return verb(alias, *args, **kwargs)
            except OperationalError as error:
                if not left or not isinstance(error.__cause__, _COLLISIONS):
                    raise
                connection = user_connection(alias)
                if connection.in_atomic_block or not connection.get_autocommit():
                    raise
        raise AssertionError("the last try returns or raises")

    return try_it


@contextlib.contextmanager
def user_cursor(alias: str) -> Iterator[Any]:
    """Give a cursor on the caller's connection, in the caller's transaction."""
    with user_connection(alias).cursor() as cursor:
        yield cursor


# What operators' reads ask for: plans through indexes as workers have them, and an end in any case.
_READING = {
    **{key: _SESSION[key] for key in _SESSION if key.startswith("enable_") or key == "jit"},
    "max_parallel_workers_per_gather": "0",
    "statement_timeout": "10s",
}


@contextlib.contextmanager
def reading_cursor(alias: str) -> Iterator[Any]:
    """Give a cursor on the caller's connection for reads of the tables of tasks.

    It sees what the caller's transaction sees. Its settings end with it, by a rollback: to a
    savepoint, if the caller is in a transaction.
    """
    connection = user_connection(alias)
    with transaction.atomic(using=alias), connection.cursor() as cursor:
        asked = ", ".join("set_config(%s, %s, true)" for _ in _READING)
        cursor.execute(f"SELECT {asked}", [text for pair in _READING.items() for text in pair])
        yield cursor
        transaction.set_rollback(True, using=alias)
