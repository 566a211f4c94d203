"""Know whether this process is one that runs tasks."""

from __future__ import annotations

# Set once by a worker's child, right after the fork.
in_worker = False
