"""The first process of a worker that a test has started."""

from __future__ import annotations

import sys

from django_taskq.worker.nursery import die_with


def main(parent: int, arguments: list[str]) -> None:
    """Run `taskworker` with these arguments, and end when the test's process does.

    `parent` is that process's id; 0 where the worker may not be tied to the thread that started it.
    """
    if parent:
        die_with(parent)
    from django.core.management import execute_from_command_line

    execute_from_command_line(["manage.py", "taskworker", *arguments])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
