"""The processes that run tasks: supervisor -> nursery -> children.

The worker
  supervisor.py   `manage.py taskworker`: one loop, one database connection
  opening.py      how it begins: waits for the database, makes itself known
  children.py     the supervisor's children: forked, watched, ordered about
  aftermath.py    settles what dead and stuck children held
  presence.py     notices whole workers and hosts that are gone
  fork.py         the supervisor's side of the nursery
  nursery.py      a fork server: loads the project once, forks children, reaps them
  guard.py        whether the nursery still reports deaths
  listener.py     hears hints, on the supervisor's connection or on one around a pooler
  pruner.py       deletes finished tasks whose time is over
  reload.py       when the code changes: children end, the worker starts anew
  vitals.py       what is told outside: health.py answers HTTP probes, notify.py tells systemd
  signals.py      signals become flags
  options.py      what the command line said
  console.py      the banner and the lines of a terminal
  solo.py         all of this in one process, for debuggers

A child
  child.py        brings its two threads together: a pool (pools/) and a feeder
  memory.py       how much memory it holds
  executor.py     runs one task and says what it came to; writes nothing
  run.py          how a task is run: its function, its options and those of its row
  decision.py     what becomes of a task that is not started, or has raised
  listeners.py    what a running task and Django's signals are told
  atomic.py       tasks that commit together with their outcome

Its feeder
  feeder.py       the loop: outcomes and the next claim, in one round trip
  claims.py       what is claimed: when, and along which lanes (lanes.py)
  prefetch.py     how many tasks are claimed at a time
  hand.py         tasks from their claim until their outcome is stored
  store.py        stores outcomes, a statement per kind
  give_back.py    what the database holds for the child and it has not in hand
  progress.py     how far running tasks are
  orders.py       what wakes the feeder, and how it calls the supervisor

What a worker's processes share
  record.py       what a child has claimed and started; parallel_record.py, for several at once
  shared_memory.py, layout.py, mutex.py    the memory, what stands where, and its lock
"""
