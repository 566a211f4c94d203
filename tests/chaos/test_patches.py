"""What the test project patches is still there: no lane runs with a patch that does nothing."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.databases import ROOT

# In a process of its own: what is patched stays so.
PATCH_ALL = """
import django
django.setup()
from tests.chaos import actors, clocks, failpoints, sabotage
clocks.install()
actors.install()
assert set(failpoints._PLACES) == set(failpoints.ALL)
for place in failpoints._PLACES.values():
    place(lambda *held: None)
for sabotaged in sabotage._KINDS.values():
    sabotaged()
failpoints.install()
"""


def test_everything_that_is_patched_exists() -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.chaos.settings"}
    slow = {"CHAOS_SLOW_JUDGE": "1", "CHAOS_SLOW_CLAIMS": "1"}
    subprocess.run(
        [sys.executable, "-c", PATCH_ALL], cwd=ROOT, env={**environment, **slow}, check=True
    )
