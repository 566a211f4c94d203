"""The project of these tests on a system whose kernel does not kill children with their parent."""

from __future__ import annotations

import ctypes
import sys

from django_taskq.worker import nursery
from tests.processes.settings import *  # noqa: F403

nursery.KERNEL_KILLS = False
if sys.platform == "linux":
    # The nursery has asked for it by now, before it loads the project: take it back.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, 0)
