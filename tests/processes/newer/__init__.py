"""The code of the same site after it."""

from __future__ import annotations
