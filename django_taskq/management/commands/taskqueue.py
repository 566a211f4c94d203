"""`manage.py taskqueue <verb>`: what operators do from a terminal, a script or a probe."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error, OperationalError, ProgrammingError

from django_taskq.control import ControlError
from django_taskq.events import one_line
from django_taskq.management.colors import ColorCommand
from django_taskq.management.mistakes import explain_mistakes, usage
from django_taskq.management.taskqueue import VERBS
from django_taskq.management.taskqueue.answers import Answer, dumps, shown
from django_taskq.management.taskqueue.parsing import HelpfulParser
from django_taskq.tasks_api import TaskResultDoesNotExist

_EPILOG = """
Each verb has its own help: manage.py taskqueue list --help

Exit codes: 0 done, 1 an error, unhealthy, or nothing matched, 2 used wrongly.

Examples
  manage.py taskqueue status
  manage.py taskqueue list --status FAILED --since 1h
  manage.py taskqueue retry --all-failed --task 'shop.tasks.*'
  manage.py taskqueue enqueue shop.tasks.send_invoice 42
  manage.py taskqueue health --queue mail --max-wait 5m
"""


class Command(ColorCommand):
    """Look after the queue."""

    help = "See and change what is in the queue: tasks, workers, and whether all is well."
    # It has to work where something is wrong; `doctor` runs the checks itself.
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        parser = super().create_parser(prog_name, subcommand, epilog=_EPILOG, **kwargs)
        explain_mistakes(
            parser, lambda: [*VERBS, *(flag for verb in VERBS for flag in _flags(parser, verb))]
        )
        return parser

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(
            dest="verb", metavar="VERB", required=True, parser_class=HelpfulParser, title="Verbs"
        )
        for verb in VERBS.values():
            own = verbs.add_parser(verb.name, help=verb.help, description=verb.help)
            verb.add_arguments(own)
            own.add_argument("--json", action="store_true", help="one JSON document on stdout")
            if verb.has_database:
                own.add_argument(
                    "--database",
                    metavar="ALIAS",
                    help="the database with the tasks (default: that of the TASKS setting)",
                )
            _add_djangos(own)

    def handle(self, *args: Any, **options: Any) -> None:
        """Let the verb answer, and exit with its code."""
        options.setdefault("database", None)
        verb = VERBS[options["verb"]]
        try:
            answer = verb.run(options)
        except ControlError as error:
            raise usage(str(error)) from None
        except TaskResultDoesNotExist as error:
            raise CommandError(f"There is no task with the id {error}.") from None
        except Error as error:
            if verb.name == "run":
                raise  # what the task itself did wrong, with its traceback
            raise CommandError(_explained(error)) from None
        self._write(answer, is_json=options["json"])
        if answer.code:
            sys.exit(answer.code)

    def _write(self, answer: Answer, *, is_json: bool) -> None:
        # A terminal or a pipe may know ASCII only: programs get \\u escapes, people see \\x ones.
        encoding = getattr(self.stdout, "encoding", None) or "utf-8"
        if is_json:
            text = dumps(answer.data, ensure_ascii=encoding.lower() not in {"utf-8", "utf8"})
        else:
            text = shown(answer.lines).encode(encoding, "backslashreplace").decode(encoding)
        self.stdout.write(text)
        self.stdout.flush()


def _flags(parser: CommandParser, verb: str) -> list[str]:
    """Return the flags of a verb."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and verb in action.choices:
            return list(action.choices[verb]._option_string_actions)
    return []


def _add_djangos(parser: CommandParser) -> None:
    """Let Django's own flags stand behind the verb too; they are read before or here."""
    hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    for flag in ("--settings", "--pythonpath"):
        parser.add_argument(flag, **hidden)
    parser.add_argument("-v", "--verbosity", type=int, **hidden)
    for flag in ("--traceback", "--no-color", "--force-color", "--skip-checks"):
        parser.add_argument(flag, action="store_true", **hidden)


def _explained(error: Error) -> str:
    # The place in our statement tells nobody anything.
    text = one_line(str(error).strip().partition("\nLINE ")[0], 300)
    if isinstance(error, ProgrammingError) and "does not exist" in text:
        return f"The tables are missing or too old: run manage.py migrate. ({text})"
    if isinstance(error, OperationalError):
        return f"The database does not answer: {text}"
    return f"The database refuses: {text}"
