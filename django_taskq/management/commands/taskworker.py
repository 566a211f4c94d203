"""`manage.py taskworker`: options in, a Supervisor out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_taskq import conf, db, registry
from django_taskq.management.mistakes import explain_mistakes, usage
from django_taskq.router import databases_of_tasks, our_backends
from django_taskq.suggestions import did_you_mean
from django_taskq.task import find
from django_taskq.tasks_api import has_tasks_setting, task_backends
from django_taskq.worker.console import set_up_logging, wants_color
from django_taskq.worker.fork import NurseryFailed
from django_taskq.worker.health import HealthPortTaken
from django_taskq.worker.opening import EXIT_ERROR
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.solo import run_solo
from django_taskq.worker.supervisor import Supervisor

_EPILOG = """
Most options can be set by an environment variable too: TASKWORKER_QUEUES,
TASKWORKER_EXCLUDE_QUEUES, TASKWORKER_POOL, TASKWORKER_CONCURRENCY,
TASKWORKER_SHUTDOWN_TIMEOUT, TASKWORKER_MAX_TASKS, TASKWORKER_MAX_TASKS_PER_CHILD,
TASKWORKER_MAX_MEMORY_PER_CHILD, TASKWORKER_RELOAD, TASKWORKER_NO_PRELOAD,
TASKWORKER_HEALTH_PORT.

Exit codes: 0 stopped, 1 error, 2 a wrong flag, 75 the database is unavailable.

Examples
  manage.py taskworker
  manage.py taskworker -Q mail,default -c 8
  manage.py taskworker --burst -v 2
"""


class Command(BaseCommand):
    """Run tasks."""

    help = (
        "Run tasks from the database until stopped. Start as many as you like, on as many machines "
        "as you like. Stop with Ctrl+C or SIGTERM: running tasks get --shutdown-timeout seconds "
        "to finish, then go back to the queue."
    )
    # The database may be down when a worker starts: it waits for it, and looks at the tables then.
    requires_migrations_checks = False

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs.setdefault("formatter_class", _HelpFormatter)
        parser = super().create_parser(prog_name, subcommand, epilog=_EPILOG, **kwargs)
        explain_mistakes(parser, lambda: parser._option_string_actions)
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command; a bad variable is told in words, like a bad flag."""
        try:
            super().run_from_argv(argv)
        except CommandError as error:
            if "--traceback" in argv:
                raise
            self.stderr.write(f"CommandError: {error}")
            sys.exit(error.returncode)

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_argument_group("What to run")
        what.add_argument(
            "-Q",
            "--queues",
            metavar="NAMES",
            default=os.environ.get("TASKWORKER_QUEUES", ""),
            help="comma separated, in order of preference; globs allowed (default: all queues)",
        )
        what.add_argument(
            "-X",
            "--exclude-queues",
            metavar="NAMES",
            default=os.environ.get("TASKWORKER_EXCLUDE_QUEUES", ""),
            help="leave these out; comma separated, globs allowed (default: none)",
        )
        what.add_argument(
            "--burst",
            action="store_true",
            help="exit when nothing is due now (for cron, tests, CI)",
        )
        what.add_argument(
            "--max-tasks",
            metavar="N",
            type=_whole(1),
            default=_environment("TASKWORKER_MAX_TASKS", _whole(1), 0),
            help="exit after N tasks; no more are started (default: no limit)",
        )
        how = parser.add_argument_group("How to run")
        how.add_argument(
            "-P",
            "--pool",
            metavar="POOL",
            choices=list(conf.POOLS),
            default=_environment("TASKWORKER_POOL", _pool, None),
            help="processes, threads, asyncio or solo, which is for debuggers (default: processes)",
        )
        how.add_argument(
            "-c",
            "--concurrency",
            metavar="N",
            type=_whole(1),
            default=_environment("TASKWORKER_CONCURRENCY", _whole(1), None),
            help="tasks at once (default: number of processors; threads 10, asyncio 100)",
        )
        how.add_argument(
            "--max-tasks-per-child",
            metavar="N",
            type=_whole(0),
            default=_environment("TASKWORKER_MAX_TASKS_PER_CHILD", _whole(0), None),
            help="replace a process after N tasks (default: 0, no limit)",
        )
        how.add_argument(
            "--max-memory-per-child",
            metavar="MB",
            type=_whole(0),
            default=_environment("TASKWORKER_MAX_MEMORY_PER_CHILD", _whole(0), None),
            help="replace a process that holds more, after its task (default: 0, no limit)",
        )
        how.add_argument(
            "--shutdown-timeout",
            metavar="SECONDS",
            type=_seconds,
            default=_environment("TASKWORKER_SHUTDOWN_TIMEOUT", _seconds, None),
            help="time that running tasks get to finish after a stop (default: 25)",
        )
        how.add_argument(
            "--reload",
            action=argparse.BooleanOptionalAction,
            default=_environment("TASKWORKER_RELOAD", _yes_or_no, None),
            help="start anew when the code changes (default: if DEBUG is on; never with --burst)",
        )
        how.add_argument(
            "--no-preload",
            dest="preload",
            action="store_false",
            default=not _environment("TASKWORKER_NO_PRELOAD", _yes_or_no, False),
            help="load the project in each process for itself, not once before the fork",
        )
        how.add_argument(
            "--health-port",
            metavar="[HOST:]PORT",
            type=_address,
            default=_environment("TASKWORKER_HEALTH_PORT", _address, None),
            help="answer GET /live and /ready there (default: 0, nowhere; HOST: 127.0.0.1)",
        )
        how.add_argument(
            "--database",
            metavar="ALIAS",
            help="the database with the tasks (default: that of the TASKS setting)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker and exit with its code."""
        if sys.platform == "win32":
            raise CommandError(
                "The worker does not run on Windows, whatever its pool: it needs fork, and a mutex "
                "in shared memory. Run it in WSL (the Windows Subsystem for Linux) or on a Linux "
                "machine, with the same database."
            )
        worker_options = self._worker_options(options)
        set_up_logging(worker_options)
        self._load_tasks()
        self._warn(worker_options)
        try:
            if worker_options.pool == "solo":
                code = run_solo(worker_options, self._say)
            else:
                code = Supervisor(worker_options, self._say).run()
        except NurseryFailed as error:
            self.stderr.write(f"The project could not be loaded:\n{error}")
            code = EXIT_ERROR
        # The port for probes is taken; or a pooler stands there that POOLED says nothing of.
        except (HealthPortTaken, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from None
        if code:
            sys.exit(code)

    def _worker_options(self, options: dict[str, Any]) -> WorkerOptions:
        try:
            settings = conf.get()
            alias = options["database"] or _database()
            if alias not in django_settings.DATABASES:
                near = did_you_mean(alias, django_settings.DATABASES)
                raise usage(f'There is no database "{alias}" in DATABASES.{near}')
            db.user_connection(alias)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        pool = options["pool"] or settings.pool
        host, port = _given(options["health_port"], conf.address_of(settings.health_port))
        can_reload = pool != "solo" and not options["burst"] and not options["max_tasks"]
        return WorkerOptions(
            database=alias,
            queues=_names(options["queues"]),
            excluded=_names(options["exclude_queues"]),
            pool=pool,
            concurrency=_concurrency(pool, options["concurrency"], settings),
            burst=options["burst"],
            max_tasks=options["max_tasks"],
            max_tasks_per_child=_given(
                options["max_tasks_per_child"], settings.max_tasks_per_child
            ),
            max_memory_per_child=_given(
                options["max_memory_per_child"], settings.max_memory_per_child
            ),
            shutdown_timeout=_given(options["shutdown_timeout"], settings.shutdown_timeout),
            database_wait=settings.database_wait,
            listen=settings.listen,
            reload=can_reload and _given(options["reload"], bool(django_settings.DEBUG)),
            preload=options["preload"],
            health_host=host,
            health_port=port,
            verbosity=options["verbosity"],
            color=wants_color() and not options["no_color"],
        )

    def _load_tasks(self) -> None:
        """Import every tasks.py here too: the supervisor decides on retries of killed tasks."""
        failures = [f for f in registry.discover() if not f.is_foreign]
        if failures:
            shown = "\n".join(f"{f.module} (app {f.app}):\n{f.traceback}" for f in failures)
            raise CommandError(f"These modules could not be imported:\n{shown}")
        for key, (first, second) in registry.clashes().items():
            raise CommandError(
                f'Two tasks are called "{key}": at {first} and at {second}. Give one of them a '
                'name of its own: @task(name="…").'
            )

    def _warn(self, options: WorkerOptions) -> None:
        """Point out what is probably not meant; refuse queues that the settings do not allow."""
        if has_tasks_setting() and not hasattr(task_backends["default"], "database"):
            self.stderr.write(
                self.style.WARNING(
                    f'TASKS["default"] is {type(task_backends["default"]).__name__}: tasks of '
                    "the default backend do not come here."
                )
            )
        settings = conf.get()
        if options.listen and settings.pooled and not settings.listen_dsn:
            self.stderr.write(
                self.style.NOTICE(
                    'Behind a pooler and without DJANGO_TASKQ["LISTEN_DSN"] there are no hints: '
                    "new tasks start within a second."
                )
            )
        allowed = _allowed_queues()
        used = {task.queue_name for key in registry.names() if (task := find(key)) is not None}
        for pattern in (*options.queues, *options.excluded):
            if any(fnmatchcase(queue, pattern) for queue in allowed or used):
                continue
            near = did_you_mean(pattern, allowed or used)
            if allowed:
                raise usage(
                    f'No queue matches "{pattern}".{near} QUEUES in the TASKS setting allows '
                    f"{', '.join(sorted(allowed))}."
                )
            self.stderr.write(
                self.style.WARNING(
                    f'No registered task uses a queue that matches "{pattern}".{near}'
                )
            )

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keep the lines of the epilog; put our options before Django's."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        super().add_usage(usage, _ours_first(actions), groups, prefix)

    def add_arguments(self, actions: Any) -> None:
        super().add_arguments(_ours_first(actions))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def _ours_first(actions: Any) -> list[Any]:
    djangos = {"version", "verbosity", "settings", "pythonpath", "traceback", "no_color"}
    djangos |= {"force_color", "skip_checks"}
    return sorted(actions, key=lambda action: action.dest in djangos)


def _pool(text: str) -> str:
    if text not in conf.POOLS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(conf.POOLS)}")
    return text


# As many as a record of running tasks is made for.
_MOST_AT_ONCE = 1000


def _concurrency(pool: str, given: int | None, settings: conf.Settings) -> int:
    """Return how many tasks run at once. Raise CommandError where that many cannot."""
    if pool == "solo":
        if given is not None and given > 1:
            raise usage(f"-P solo runs one task at a time, not -c {given}.")
        return 1
    count = given or settings.concurrency or conf.POOLS[pool] or os.cpu_count() or 1
    if pool != "processes" and count > _MOST_AT_ONCE:
        raise usage(
            f"-P {pool} runs up to {_MOST_AT_ONCE} tasks at once in a process, not {count}: start "
            "several workers."
        )
    return count


def _given(value: Any, default: Any) -> Any:
    """Return what the command line or the environment says, or else the setting."""
    return default if value is None else value


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _whole(least: int) -> Callable[[str], int]:
    """Make a parser of whole numbers from `least` up."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is less than {least}")
        return number

    return parse


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 up")
    return seconds


def _yes_or_no(text: str) -> bool:
    answers = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        return answers[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0") from None


def _address(text: str) -> tuple[str, int]:
    try:
        return conf.address_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _environment(name: str, parse: Callable[[str], Any], default: Any) -> Any:
    """Read an option from the environment. Raise CommandError if it is no good."""
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return parse(text)
    except argparse.ArgumentTypeError as error:
        raise usage(f"{name}: {error}") from None


def _database() -> str:
    """Return the alias of the one database that our backends use."""
    aliases = databases_of_tasks()
    if len(aliases) > 1:
        raise usage(
            f"Tasks are kept in several databases ({', '.join(aliases)}): say which one this "
            "worker serves, with --database."
        )
    return aliases[0]


def _allowed_queues() -> set[str]:
    """Return the queues that the settings allow; none if some backend allows all."""
    allowed = [set(backend.queues) for backend in our_backends()]
    return set().union(*allowed) if all(allowed) else set()
