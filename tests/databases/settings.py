"""A project whose databases and DJANGO_TASKQ a test chooses by environment variables."""

from __future__ import annotations

import json

from tests.processes.settings import *  # noqa: F403
from tests.processes.settings import DATABASES, env

DJANGO_TASKQ = json.loads(env.str("DJANGO_TASKQ", "{}"))

# As a project behind PgBouncer has to say.
DATABASES["default"]["DISABLE_SERVER_SIDE_CURSORS"] = DJANGO_TASKQ.get("POOLED", False)
DATABASES["default"]["OPTIONS"] = {
    **DATABASES["default"].get("OPTIONS", {}),
    **json.loads(env.str("DATABASE_OPTIONS", "{}")),
}
DATABASES["default"]["ENGINE"] = env.str("DATABASE_ENGINE", DATABASES["default"]["ENGINE"])
