"""`manage.py taskworker`: flags in, a Supervisor out."""

from __future__ import annotations

import argparse
import sys
from fnmatch import fnmatchcase
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError, CommandParser

from django_taskq import conf, registry
from django_taskq.management.colors import ColorCommand
from django_taskq.management.mistakes import explain_mistakes, usage
from django_taskq.management.taskworker.flags import add_flags
from django_taskq.management.taskworker.options import options_of
from django_taskq.router import our_backends
from django_taskq.suggestions import did_you_mean
from django_taskq.task import find
from django_taskq.tasks_api import has_tasks_setting, task_backends
from django_taskq.worker.console import set_up_logging
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


class Command(ColorCommand):
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
        # Django's own flags, those of every command, come behind ours.
        parser._action_groups.remove(parser._optionals)
        parser._action_groups.append(parser._optionals)
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
        add_flags(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker and exit with its code."""
        if sys.platform == "win32":
            raise CommandError(
                "The worker does not run on Windows, whatever its pool: it needs fork, and a mutex "
                "in shared memory. Run it in WSL (the Windows Subsystem for Linux) or on a Linux "
                "machine, with the same database."
            )
        worker_options = options_of(options)
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
        if all(name.startswith("django_taskq.") for name in registry.names()):
            self.stderr.write(
                self.style.WARNING(
                    "No task is registered. Workers look for tasks in the tasks.py of each app in "
                    "INSTALLED_APPS."
                )
            )
        self._check_queues(options)

    def _check_queues(self, options: WorkerOptions) -> None:
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
    """Keep the lines of the epilog; put our options before Django's in the usage, too."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        super().add_usage(usage, _ours_first(actions), groups, prefix)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


def _ours_first(actions: Any) -> list[Any]:
    djangos = {"version", "verbosity", "settings", "pythonpath", "traceback", "no_color"}
    djangos |= {"force_color", "skip_checks"}
    return sorted(actions, key=lambda action: action.dest in djangos)


def _allowed_queues() -> set[str]:
    """Return the queues that the settings allow; none if some backend allows all."""
    allowed = [set(backend.queues) for backend in our_backends()]
    return set().union(*allowed) if all(allowed) else set()
