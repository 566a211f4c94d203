"""All SQL that writes: one statement per arrow, with its precondition in its WHERE.

    enqueue     ->  READY                            enqueue.py
    claim       READY -> RUNNING                     claim.py
    complete    RUNNING -> SUCCESSFUL                finish.py
    retry       RUNNING -> READY, later              finish.py
    snooze      RUNNING -> READY, later              finish.py
    fail        RUNNING -> FAILED                    finish.py
    cancel      RUNNING -> CANCELLED                 finish.py      (the task said so)
    expire      RUNNING -> EXPIRED                   finish.py      (it was claimed too late)
    park        RUNNING -> HELD                      finish.py
    cancel      READY, HELD -> CANCELLED             operate.py     (somebody said so)
    expire      READY, HELD -> EXPIRED               expire.py      (nobody came in time)
    requeue     FAILED, … -> READY, same id          operate.py
    resume      HELD -> READY                        operate.py
    give back   RUNNING -> READY                     rescue.py      (it had not started)
    rescue      RUNNING -> READY or FAILED           rescue.py      (its process died)
    prune       a finished task  ->                  prune.py

Whatever ends or moves a running task names its id and its claim token, or a worker that is dead or
that says so itself. A test knows each of these statements.
Nothing in here imports a model: statements are text that can be pasted into psql.
"""
