"""The clocks of a worker, in seconds: how often it shows that it lives, and when others doubt it.

They belong together, and all workers of a database have to agree on them: so they are no settings.
They are read where they count, never copied: whoever tests how workers die sets them to less, in
`AppConfig.ready()`, which every process of a worker runs.
"""

from __future__ import annotations

# A supervisor asks where work is.
TICK = 1.0
# It shows that it and its children live, and reads what others have shown.
BEAT = 5.0
# A process whose counter has stood still for so long is dead.
TTL = 30.0
# It looks for tasks whose process is not listed any more, at least so often.
SWEEP = 5.0
# What the database has not answered within this time to a supervisor, it does not answer.
ANSWER = 10.0
