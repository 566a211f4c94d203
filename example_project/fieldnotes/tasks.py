"""What the site does in the background: four tasks, each with another need.

A task can run twice (a worker may die after the work and before the result is stored), so
each of them does its work in a way that a second run does no harm.
"""

from __future__ import annotations

import csv
import io
import time
from typing import TypedDict
from urllib.error import URLError

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.mail import send_mail
from django.template.loader import render_to_string
from PIL import Image, ImageOps

from django_taskq import Cancel, Snooze, TaskContext, task

from . import webhooks
from .models import Airport, AirportSheet, Delivery, Picture, Thumbnail

IMPORT_BATCH = 250

# Pillow loads its formats when the first picture is opened. Here the nursery does it, once for all.
Image.preinit()


@task(queue_name="pictures", timeout=60)
def make_thumbnail(picture_id: str, size: int) -> str:
    """Store the picture with its longest edge made `size` pixels; return what came out."""
    picture = Picture.objects.filter(pk=picture_id).first()
    if picture is None:
        raise Cancel("the picture has been deleted")

    with picture.image.open("rb") as file, Image.open(file, formats=[picture.format]) as image:
        image.draft("RGB", (size * 2, size * 2))  # a JPEG decodes faster at about its target size
        upright = ImageOps.exif_transpose(image)
        small = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    output = io.BytesIO()
    small.save(output, "WEBP", quality=82)  # without the EXIF data: it may say where people live

    # One name per size: a second run replaces the file of the first.
    name = f"thumbnails/{picture.pk}-{size}.webp"
    default_storage.delete(name)
    default_storage.save(name, ContentFile(output.getvalue()))
    Thumbnail.objects.update_or_create(
        picture=picture,
        size=size,
        defaults={"image": name, "width": small.width, "height": small.height},
    )
    return f"{small.width} × {small.height}, {output.tell() / 1024:.1f} kB"


@task(queue_name="mail", max_attempts=5, retry_on=(OSError,), backoff=30, timeout=60)
def send_welcome_mail(user_id: int) -> str:
    """Welcome a new user by mail; an unreachable mail server is an OSError and tried again."""
    user = get_user_model().objects.filter(pk=user_id).first()
    if user is None:
        raise Cancel("the user has been deleted")
    send_mail(
        subject="Welcome to Fieldnotes",
        message=render_to_string("fieldnotes/welcome.txt", {"user": user}),
        from_email=None,
        recipient_list=[user.email],
    )
    return f"mailed {user.get_username()}"


class Imported(TypedDict):
    """What an import of airports has done."""

    rows: int
    imported: int
    skipped: int


@task(queue_name="imports", takes_context=True, timeout=300)
def import_airports(context: TaskContext, sheet_id: str, rest: float = 0.0) -> Imported:
    """Read a CSV file of airports in batches and report the progress after each.

    `rest` is a pause after each batch, in seconds: for those who want to watch.
    """
    sheet = AirportSheet.objects.filter(pk=sheet_id).first()
    if sheet is None:
        raise Cancel("the sheet has been deleted")
    with sheet.file.open("rb") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")))

    imported = 0
    for start in range(0, len(rows), IMPORT_BATCH):
        if context.is_stopping:
            raise Snooze(1)  # another worker takes it up; rows already stored are only updated
        batch = rows[start : start + IMPORT_BATCH]
        # By code: one INSERT cannot update the same airport twice.
        airports = {airport.iata: airport for row in batch if (airport := _read_airport(row))}
        Airport.objects.bulk_create(
            airports.values(),
            update_conflicts=True,
            unique_fields=["iata"],
            update_fields=[name for name in Airport.COLUMNS if name != "iata"],
        )
        imported += len(airports)
        done = start + len(batch)
        context.progress(done, len(rows), f"{done:,} of {len(rows):,} rows")
        time.sleep(rest)
    return {"rows": len(rows), "imported": imported, "skipped": len(rows) - imported}


def _read_airport(row: dict[str, str | None]) -> Airport | None:
    """Return the airport of a row of the file, or None if the row makes no sense."""
    values = {name: (row[name] or "").strip() for name in Airport.COLUMNS}
    if values["state"] == "NA":
        values["state"] = ""
    airport = Airport(**values)
    try:
        airport.clean_fields(exclude=["id"])
    except ValidationError:
        return None
    return airport


@task(
    queue_name="webhooks",
    takes_context=True,
    max_attempts=5,
    retry_on=(webhooks.ReceiverBusy, URLError, TimeoutError),
    backoff=(1, 2, 4, 8),
    timeout=15,
)
def deliver_webhook(context: TaskContext, delivery_id: str) -> str:
    """Deliver a webhook; a receiver that is down or fails is tried again, ever less often."""
    delivery = Delivery.objects.filter(pk=delivery_id).first()
    if delivery is None:
        raise Cancel("the delivery has been deleted")
    status = webhooks.send(delivery, context.attempt)
    return f"{status} at attempt {context.attempt}"
