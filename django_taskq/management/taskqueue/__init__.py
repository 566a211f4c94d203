"""The verbs of `manage.py taskqueue`: arguments in, a call of `control`, an answer out.

look.py     status, list, show, workers
act.py      retry, cancel, prune
start.py    enqueue, run
probe.py    health, doctor
parsing.py  what the flags share, and errors that help
answers.py  how an answer is written: text for people, one JSON document for programs
"""

from __future__ import annotations

from django_taskq.management.taskqueue import act, look, probe, start
from django_taskq.management.taskqueue.answers import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb for verb in (*look.VERBS, *act.VERBS, *start.VERBS, *probe.VERBS)
}
