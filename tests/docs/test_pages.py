"""Follow the pages that need no processes of their own: each block is tried, in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.following import PAGES_OF_ONE_PROCESS, follow
from tests.docs.markdown import name_of


@pytest.mark.parametrize("page", PAGES_OF_ONE_PROCESS, ids=name_of)
def test_whoever_follows_the_page_sees_what_it_says(
    page: Path, tmp_path: Path, server_url: str, project_database: str
) -> None:
    follow(page, tmp_path, server_url, project_database)
