"""health, doctor: for probes of containers, and for people with a problem."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django_taskq import control
from django_taskq.control.findings import Severity
from django_taskq.events import one_line
from django_taskq.management.taskqueue.answers import EXIT_ERROR, EXIT_OK, Answer, Verb
from django_taskq.management.taskqueue.parsing import seconds


def _health_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--queue",
        metavar="NAME",
        action="append",
        default=[],
        help="a worker has to serve this queue; may be given several times (default: any worker)",
    )
    parser.add_argument(
        "--max-wait",
        metavar="TIME",
        type=seconds,
        help="no due task of these queues may have waited longer: 90s, 10m (default: not asked)",
    )
    parser.add_argument(
        "--host", metavar="NAME", help="only workers on this host count: $HOSTNAME in a container"
    )


def _health(options: dict[str, Any]) -> Answer:
    health = control.health(
        queues=options["queue"],
        max_wait=options["max_wait"],
        host=options["host"],
        database=options["database"],
    )
    lines = [one_line(problem) for problem in health.problems]
    if health.is_healthy:
        lines = [f"Healthy: {health.workers} worker(s)."]
    return Answer(data=health, lines=lines, code=EXIT_OK if health.is_healthy else EXIT_ERROR)


def _doctor_arguments(parser: ArgumentParser) -> None:
    """Add nothing."""


def _doctor(options: dict[str, Any]) -> Answer:
    findings = control.diagnose(database=options["database"])
    lines = []
    for finding in findings:
        lines.append(f"{finding.severity:<7}  {one_line(finding.what, 1000)}")
        lines.append(f"         {one_line(finding.fix, 1000)}")
    failed = any(finding.severity == Severity.ERROR for finding in findings)
    return Answer(
        data={"findings": findings},
        lines=lines or ["Nothing is wrong."],
        code=EXIT_ERROR if failed else EXIT_OK,
    )


VERBS = (
    Verb(
        name="health",
        help="exit with 0 if the database answers, workers run, and nothing waits too long",
        add_arguments=_health_arguments,
        run=_health,
    ),
    Verb(
        name="doctor",
        help="look for what is wrong, and say what to do",
        add_arguments=_doctor_arguments,
        run=_doctor,
    ),
)
