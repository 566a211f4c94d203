"""The processes that run tasks: supervisor -> nursery -> children.

supervisor.py   `manage.py taskworker`: starts, watches, stops; one database connection
nursery.py      a fork server: loads the project once, forks children, reaps them
child.py        a child's main thread: runs claimed tasks, one after the other
feeder.py       a child's second thread: finishes and claims, in one round trip
executor.py     runs one task and says what it came to; writes nothing
record.py       what a child has claimed and started, in shared memory
lanes.py        which lanes a worker serves, in which order
options.py      what the command line said
console.py      the banner and the lines of a terminal
"""
