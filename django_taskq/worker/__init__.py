"""The processes that run tasks: supervisor -> nursery -> children.

supervisor.py   `manage.py taskworker`: one loop, one database connection
opening.py      how it begins: waits for the database, makes itself known
children.py     the supervisor's children: forked, watched, ordered about
aftermath.py    settles what dead and stuck children held
fork.py         the supervisor's side of the nursery
nursery.py      a fork server: loads the project once, forks children, reaps them
child.py        a child's main thread: runs claimed tasks, one after the other
feeder.py       a child's second thread: finishes and claims, in one round trip
memory.py       how much memory a child holds
pruner.py       deletes finished tasks whose time is over
reload.py       when the code changes: children end, the worker starts anew
vitals.py       what is told outside: health.py answers HTTP probes, notify.py tells systemd
store.py        stores outcomes, a statement per kind
listener.py     hears hints, on the supervisor's connection or on one around a pooler
lanes.py        which lanes a worker serves, in which order, and from where
executor.py     runs one task and says what it came to; writes nothing
record.py       what a child has claimed and started, in shared memory
signals.py      signals become flags
options.py      what the command line said
console.py      the banner and the lines of a terminal
"""
