"""Notice the other project with our import name, whose files and ours overwrite each other."""

from __future__ import annotations

import sys

FIX = "pip uninstall -y django-taskq django-taskq-pg && pip install django-taskq-pg"


def refuse_mixture() -> None:
    """Raise ImportError if `django_taskq/__init__.py` is not ours, or is gone.

    `from django_taskq import task` would find the module instead of the decorator, and say that a
    module is not callable.
    """
    if not hasattr(sys.modules["django_taskq"], "__version__"):
        raise ImportError(
            "django_taskq holds files of another project, the distribution django-taskq, which has "
            f"the same import name, or lacks files since that was uninstalled. Remove both: {FIX}"
        )
