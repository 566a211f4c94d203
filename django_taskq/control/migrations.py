"""Which of our migrations a database lacks, for workers and for the doctor."""

from __future__ import annotations

import pkgutil
from collections.abc import Set
from importlib import import_module

from django.db.migrations.loader import MigrationLoader

_LABEL = "django_taskq"


def missing_migrations(applied: Set[str]) -> list[str]:
    """Return the names of our migrations that have not run, in their order.

    A database that is ahead of the code lacks none. Only our own are loaded: those of a large
    project take seconds, and memory that a worker would keep.
    """
    package, _ = MigrationLoader.migrations_module(_LABEL)
    if package is None:  # MIGRATION_MODULES says that there are none
        return []
    names = sorted(module.name for module in pkgutil.iter_modules(import_module(package).__path__))
    return [name for name in names if name[0] not in "_~" and not _has_run(package, name, applied)]


def _has_run(package: str, name: str, applied: Set[str]) -> bool:
    """Say whether a migration has run, or all those have that it replaces."""
    replaced = {of for app, of in import_module(f"{package}.{name}").Migration.replaces}
    return name in applied or (bool(replaced) and replaced <= applied)
