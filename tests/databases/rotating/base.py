"""A database engine that fetches its password anew for each connection, as cloud agents ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Read the password from a file."""

    def get_connection_params(self) -> dict[str, Any]:
        password = Path(os.environ["PASSWORD_FILE"]).read_text().strip()
        return {**super().get_connection_params(), "password": password}
