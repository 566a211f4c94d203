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
    parser.add_argument(
        "--patience",
        metavar="TIME",
        type=seconds,
        default=300.0,
        help="tell of transactions and due tasks that are older: 90s, 10m (default: 5m)",
    )
    parser.add_argument(
        "--watch",
        metavar="TIME",
        type=seconds,
        default=12.0,
        help="how long a worker may take to move its counter; 0s: do not look (default: 12s)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="exit with 1 if there are warnings, too"
    )


def _doctor(options: dict[str, Any]) -> Answer:
    found = control.diagnose(
        patience=options["patience"], watch=options["watch"], database=options["database"]
    )
    counts = {severity: sum(f.severity == severity for f in found) for severity in Severity}
    lines = []
    for finding in found:
        lines.append(f"{finding.severity:<7}  {one_line(finding.what, 1000)}")
        lines.append(f"         where: {one_line(finding.where)} ({finding.id})")
        lines.append(f"         fix:   {one_line(finding.fix, 1000)}")
    told = [f"{count} {severity}(s)" for severity, count in counts.items() if count]
    failed = counts[Severity.ERROR] or (options["strict"] and counts[Severity.WARNING])
    return Answer(
        data={"findings": found},
        lines=[*lines, ", ".join(told) + "."] if found else ["Nothing is wrong."],
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
