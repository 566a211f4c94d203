"""The code of a site before a deployment."""

from __future__ import annotations
