from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.testing import tasks


@pytest.fixture(autouse=True)
def events() -> Iterator[list[Any]]:
    """Return what the sample tasks of this test have noted."""
    tasks.EVENTS.clear()
    yield tasks.EVENTS
    tasks.EVENTS.clear()
