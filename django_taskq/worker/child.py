"""A child: a pool that runs claimed tasks, and a feeder that brings them and stores outcomes."""

from __future__ import annotations

from collections import deque
from typing import Any

from django_taskq import current
from django_taskq.worker.console import set_up_logging
from django_taskq.worker.feeder import Feeder
from django_taskq.worker.memory import MemoryLimit
from django_taskq.worker.nursery import leave_stopping_to_the_supervisor
from django_taskq.worker.options import WorkerOptions
from django_taskq.worker.pools import Seat, pool_class
from django_taskq.worker.shared_memory import SharedMemory


def run_child(order: dict[str, Any]) -> int:
    """Run one child in a freshly forked process; return its exit code."""
    options = WorkerOptions.from_json(order["options"])
    set_up_logging(options)
    leave_stopping_to_the_supervisor()
    memory = SharedMemory(order["memory"], order["children"], options.places)
    run_tasks(options, memory, order)
    return 0


def run_tasks(options: WorkerOptions, memory: SharedMemory, order: dict[str, Any]) -> None:
    """Run tasks in this process until its supervisor says that it is enough."""
    current.in_worker = True
    limit = options.max_memory_per_child
    memory_limit = MemoryLimit(limit) if limit else None
    if memory_limit is not None:
        memory_limit.warn_if_too_low()
    record = memory.records[order["slot"]]
    seat = Seat(
        options=options,
        worker_id=order["worker_id"],
        record=record,
        outbox=deque(),
        memory_limit=memory_limit,
    )
    pool = pool_class(options.pool)(seat)
    feeder = Feeder(
        seat,
        slot=order["slot"],
        pool=pool,
        budget=memory.budget,
        orders=order["orders"],
        bell=order["bell"],
        lent=(lambda: memory.lent_to_others(record)) if options.places else None,
    )
    pool.run(feeder)
    feeder.end()
