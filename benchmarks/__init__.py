"""What the queue costs, against a raw-SQL loop of the same statements in the same run.

__main__.py     `python -m benchmarks`: which measurements, how large, the table
measure.py      figures, bounds, alternation, medians
server.py       databases of our own on the server of DATABASE_URL
tree.py         a source tree and its database: fill it, run its worker on it
raw.py          the raw-SQL loops, each a process of its own
enqueue.py, drain.py, latency.py, claim.py, snapshot.py, idle.py, memory.py
                one measurement each
against.py      the same drains with another commit
project/        a minimal Django project with two tasks
"""
