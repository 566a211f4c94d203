"""The reference of the helpers is complete. (That its guide works is tested with all pages.)"""

from __future__ import annotations

import dataclasses

from django_taskq import testing
from tests.test_docs import described, table_rows


def test_every_helper_is_described() -> None:
    assert set(testing.__all__) <= {word.partition("(")[0] for word in described("testing.md")}
    words = " ".join(table_rows("testing.md"))
    for name in testing.__all__:
        helper = getattr(testing, name)
        assert (helper.__doc__ or "").strip(), name
        if dataclasses.is_dataclass(helper):
            public = {each for each in vars(helper) if not each.startswith("_")}
            assert not {each for each in public - {"before", "close"} if f"`{each}" not in words}
