"""Tasks of a shop."""

from __future__ import annotations

import os
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core import mail
from django.db import connection

from django_taskq import TaskContext, task


@task
def add_group(name: str) -> dict[str, Any]:
    """Write something, and say where this was."""
    Group.objects.create(name=name)
    return {
        "pid": os.getpid(),
        "database": connection.settings_dict["NAME"],
        "debug": settings.DEBUG,
        "media": settings.MEDIA_ROOT,
        "mails": mail.send_mail("A group", name, None, ["ada@example.com"]),
    }


@task(takes_context=True, max_attempts=3, backoff=0)
def succeed_at(context: TaskContext, attempt: int) -> int:
    """Fail until the given attempt."""
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt}")
    return context.attempt


@task(takes_context=True)
async def tell_if_cancelled(context: TaskContext) -> bool:
    """Say whether somebody wants this to end."""
    return context.is_cancelled
