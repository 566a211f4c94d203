"""worker(): a real worker on the test database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import UserSettingsHolder
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import load_command_class
from django.db import connections

from django_taskq.models import Worker
from django_taskq.suggestions import did_you_mean
from django_taskq.testing.databases import backends

# What another process needs to find the database that this one uses.
_TARGET = ("NAME", "HOST", "PORT", "USER", "PASSWORD")
# Beyond the worker's own grace time, before it is killed.
_PATIENCE = 10.0


class RunningWorker:
    """A worker that a test has started."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, alias: str) -> None:
        self.process = process
        self._log = log
        self._alias = alias
        self._is_stopping = False

    @property
    def pid(self) -> int:
        """Return the id of its first process, the one that takes signals."""
        return self.process.pid

    @property
    def output(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    def stop(self, timeout: float = 30.0) -> None:
        """Stop it as a deployment does: running tasks get its `shutdown_timeout` to finish.

        Raise RuntimeError, with its output, if it had ended in error before.
        """
        ended_before = self.process.poll() is not None and not self._is_stopping
        self._is_stopping = True
        if not ended_before:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        elif self.process.returncode:
            raise self._failed(f"has ended with exit code {self.process.returncode}")

    def wait_until_ready(self, timeout: float) -> None:
        """Return when it can run tasks. Raise RuntimeError if it has ended, or takes too long."""
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            code = self.process.poll()
            if code == 0:  # with burst=True: nothing was due
                return
            if code is not None:
                raise self._failed(f"has ended with exit code {code}")
            if time.monotonic() > deadline:
                raise self._failed(f"is not ready after {timeout:g} s")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        rows = Worker.objects.using(self._alias)
        first = rows.filter(kind="SUPERVISOR", pid=self.pid).first()
        if first is None:
            return False
        if first.info.get("pool") == "solo":
            return True
        return rows.filter(kind="CHILD", parent_id=first.id, pid__gt=0).exists()

    def _failed(self, what: str) -> RuntimeError:
        return RuntimeError(f"The worker {what}. It has written:\n{self.output}")


@contextmanager
def worker(
    *, settings: Mapping[str, Any] | None = None, ready_within: float = 60.0, **options: Any
) -> Iterator[RunningWorker]:
    """Run a real worker on the test database while the block lasts.

    Options are those of `manage.py taskworker`, with underscores: `queues="mail"`,
    `concurrency=2` (1 by default), `burst=True`. `settings` are settings that differ in the worker;
    they have to be JSON. What the worker has written is added to an error that leaves the block.
    Raise RuntimeError inside a transaction, which no other process can see, and when the worker
    does not come up within `ready_within` seconds.
    """
    alias = options.get("database") or next(iter(backends()))
    _check_transaction(alias)
    with tempfile.TemporaryDirectory(prefix="taskworker-") as directory:
        log = Path(directory) / "output"
        running = RunningWorker(_start(_arguments(options), settings or {}, log), log, alias)
        try:
            running.wait_until_ready(ready_within)
            yield running
        except BaseException as error:
            with suppress(RuntimeError):
                running.stop()
            if running.output not in str(error):  # as it is when the worker did not come up
                error.add_note(f"What the worker has written:\n{running.output}")
            raise
        finally:
            running.stop()


def _check_transaction(alias: str) -> None:
    if connections[alias].in_atomic_block:
        raise RuntimeError(
            f"worker() inside a transaction on {alias!r}: another process cannot see what the test "
            "writes. Use TransactionTestCase or LiveServerTestCase instead of TestCase, in pytest "
            "@pytest.mark.django_db(transaction=True) or the fixture taskq_worker. Inside a "
            "TestCase drain() runs tasks without a worker."
        )


def _start(arguments: list[str], settings: Mapping[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """Start the first process of a worker."""
    # A process that dies with its parent dies with the thread that started it.
    is_main = threading.current_thread() is threading.main_thread()
    given = {
        "module": _settings_module(),
        "databases": {
            alias: {key: _plain(connections[alias].settings_dict.get(key)) for key in _TARGET}
            for alias in connections
        },
        "settings": dict(settings),
    }
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("TASKWORKER_")},
        # As in the worker's own processes: the project is found as this process found it.
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "django_taskq.testing.worker_settings",
        "DJANGO_TASKQ_TEST_WORKER": json.dumps(given),
    }
    main = "import sys; from django_taskq.testing.started import main; "
    main += "main(int(sys.argv[1]), sys.argv[2:])"
    parent = str(os.getpid() if is_main else 0)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", main, parent, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl+C is for the tests, which stop the worker then
        )


def _arguments(options: Mapping[str, Any]) -> list[str]:
    """Turn keyword arguments into those of the command. Raise TypeError for an unknown one."""
    parser: Any = load_command_class("django_taskq", "taskworker").create_parser("", "taskworker")
    known = {
        action.dest: action.option_strings for action in parser._actions if action.option_strings
    }
    arguments = []
    for name, value in {"concurrency": 1, "verbosity": 2, **options}.items():
        if name not in known:
            raise TypeError(
                f"worker() got an unknown option {name!r}.{did_you_mean(name, known)} It takes "
                f"those of manage.py taskworker."
            )
        flag = next(text for text in known[name] if text.startswith("--"))
        if value is False:
            off = f"--no-{flag[2:]}"
            arguments += [off] if off in known[name] else []
        elif value is True:
            arguments.append(flag)
        elif value is not None:
            text = value if isinstance(value, str | int | float) else ",".join(value)
            arguments.append(f"{flag}={text}")
    return arguments


def _settings_module() -> str:
    """Return the name of the settings module, under whatever override_settings() has laid on it."""
    holder: Any = vars(django_settings).get("_wrapped")
    while isinstance(holder, UserSettingsHolder):
        holder = holder.default_settings
    module = getattr(holder, "SETTINGS_MODULE", None)
    if not module:
        raise ImproperlyConfigured(
            "worker() needs a settings module, which its processes can import: "
            "settings.configure() is known to this process alone. Set DJANGO_SETTINGS_MODULE."
        )
    return str(module)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | None) else str(value)
