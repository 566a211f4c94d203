"""What a visitor can do: each action stores its rows and enqueues its tasks in one transaction.

If the transaction does not commit, neither the rows nor the tasks have ever existed; and a
worker never sees a task before it can see the rows that the task is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.core.files.base import File
from django.db import transaction

from django_taskq import TaskResult

from .models import THUMBNAIL_SIZES, AirportSheet, Delivery, Picture
from .tasks import deliver_webhook, import_airports, make_thumbnail, send_welcome_mail

if TYPE_CHECKING:
    from .forms import SignUpForm


@transaction.atomic
def add_picture(title: str, format: str, file: File[bytes]) -> Sequence[TaskResult[str]]:
    """Store a picture and have its thumbnails made, one task per size."""
    picture = Picture(title=title, format=format)
    picture.image.save(picture.title, file)
    return make_thumbnail.enqueue_many([(str(picture.pk), size) for size in THUMBNAIL_SIZES])


@transaction.atomic
def sign_up(form: SignUpForm) -> TaskResult[str]:
    """Store the new user and have them welcomed: no user, no mail."""
    user: Any = form.save()
    return send_welcome_mail.enqueue(user.pk)


@transaction.atomic
def import_sheet(file: File[bytes], rest: float = 0.0) -> TaskResult[Any]:
    """Keep the file of airports and have it read, with `rest` seconds between the batches."""
    sheet = AirportSheet()
    sheet.file.save("airports.csv", file)
    return import_airports.enqueue(str(sheet.pk), rest)


@transaction.atomic
def announce(event: str, failures: int) -> TaskResult[str]:
    """Have an event delivered to a receiver that fails `failures` times first."""
    delivery = Delivery.objects.create(event=event, failures=failures)
    return deliver_webhook.enqueue(str(delivery.pk))
