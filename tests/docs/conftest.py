from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.docs.markdown import ROOT
from tests.docs.reader import PROJECT, environment_of
from tests.support.databases import empty_database


@pytest.fixture(scope="session")
def project_database(server_url: str) -> Iterator[str]:
    """Yield the name of a database with the tables of the readers' project, to be copied."""
    with empty_database(server_url) as name:
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--run-syncdb", "--verbosity", "0"],
            cwd=PROJECT,
            env=environment_of(server_url, name)
            | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            check=True,
        )
        yield name
