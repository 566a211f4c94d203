"""Follow the pages that start programs, workers above all: each block is tried, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.following import PAGES_WITH_PROCESSES, follow
from tests.docs.markdown import name_of


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", PAGES_WITH_PROCESSES, ids=name_of)
def test_whoever_follows_the_page_sees_what_it_says(
    page: Path, tmp_path: Path, server_url: str, project_database: str
) -> None:
    for attempt in range(5):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        try:
            return follow(page, directory, server_url, project_database)
        except pytest.fail.Exception as failure:
            # What stands in for Redis drops a connection now and then when the machine is busy.
            if "redis.exceptions.ConnectionError" not in str(failure):
                raise
    pytest.fail("The stand-in for Redis dropped its connection five times.")
