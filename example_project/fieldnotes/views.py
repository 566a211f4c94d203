"""One page for everything, a view per form, and the receiver of the webhooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.files.base import File
from django.db import transaction
from django.db.models import Count
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import conditional_page, require_POST, require_safe

from . import actions, tasks, webhooks
from .activity import Activity, Entry, read_activity
from .forms import PictureForm, SheetForm, SignUpForm, WebhookForm
from .models import THUMBNAIL_SIZES, Airport, Delivery, Picture

PICTURES_SHOWN = 4
WEBHOOKS_SHOWN = 3
SAMPLE_SHEET = settings.BASE_DIR / "data" / "airports.csv"


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show the forms and all that came of them."""
    return _page(request)


@require_safe
@conditional_page
def live(request: HttpRequest) -> HttpResponse:
    """Return the part of the page that changes by itself, for the script to put in."""
    return render(request, "fieldnotes/_live.html", _live())


@require_POST
def add_picture(request: HttpRequest) -> HttpResponse:
    """Store the picture and have its thumbnails made."""
    form = PictureForm(request.POST, request.FILES, prefix="picture")
    if not form.is_valid():
        return _page(request, picture_form=form)
    title = form.cleaned_data["title"]
    results = actions.add_picture(title, form.format, form.cleaned_data["file"])
    messages.success(request, f"“{title}” is stored; {len(results)} thumbnails are enqueued.")
    return redirect("fieldnotes:index")


@require_POST
def sign_up(request: HttpRequest) -> HttpResponse:
    """Store the user and have the welcome mail sent."""
    form = SignUpForm(request.POST, prefix="person")
    if not form.is_valid():
        return _page(request, person_form=form)
    actions.sign_up(form)
    name = form.cleaned_data["username"]
    messages.success(request, f"{name} is signed up; the welcome mail is enqueued.")
    return redirect("fieldnotes:index")


@require_POST
def import_sheet(request: HttpRequest) -> HttpResponse:
    """Keep the file, or a copy of the sample, and have it read."""
    form = SheetForm(request.POST, request.FILES, prefix="sheet")
    if not form.is_valid():
        return _page(request, sheet_form=form)
    rest = 0.5 if form.cleaned_data["slowly"] else 0.0
    if (file := form.cleaned_data["file"]) is not None:
        actions.import_sheet(file, rest)
    else:
        with SAMPLE_SHEET.open("rb") as sample:
            actions.import_sheet(File(sample), rest)
    messages.success(request, "The import of the airports is enqueued.")
    return redirect("fieldnotes:index")


@require_POST
def announce(request: HttpRequest) -> HttpResponse:
    """Have the event delivered by webhook."""
    form = WebhookForm(request.POST, prefix="webhook")
    if not form.is_valid():
        return _page(request, webhook_form=form)
    actions.announce(form.cleaned_data["event"], form.cleaned_data["failures"])
    messages.success(request, "The webhook is enqueued.")
    return redirect("fieldnotes:index")


@csrf_exempt  # no browser comes here: the signature says who sends
@require_POST
def receive(request: HttpRequest, delivery_id: UUID) -> HttpResponse:
    """Play the flaky receiver: fail as often as the delivery says, then accept."""
    if not webhooks.is_signed(request.body, request.headers.get(webhooks.SIGNATURE_HEADER, "")):
        return JsonResponse({"error": "not signed by this site"}, status=403)
    with transaction.atomic():
        delivery = get_object_or_404(Delivery.objects.select_for_update(), pk=delivery_id)
        delivery.requests += 1
        if delivery.requests > delivery.failures and delivery.received_at is None:
            delivery.received_at = timezone.now()
        delivery.save()
    if delivery.received_at is None:
        return JsonResponse({"error": "the receiver is having a bad moment"}, status=503)
    return JsonResponse({"received": delivery.event})


def _page(request: HttpRequest, **bound: BaseForm) -> HttpResponse:
    """Render the page, with the forms that were sent and refused in place of empty ones."""
    forms: dict[str, BaseForm] = {
        "picture_form": PictureForm(prefix="picture"),
        "person_form": SignUpForm(prefix="person"),
        "sheet_form": SheetForm(prefix="sheet"),
        "webhook_form": WebhookForm(prefix="webhook"),
        **bound,
    }
    return render(request, "fieldnotes/index.html", {**forms, **_live(), "is_fresh": not bound})


def _live() -> dict[str, Any]:
    pictures: Iterable[Picture] = Picture.objects.prefetch_related("thumbnails")[:PICTURES_SHOWN]
    states = Airport.objects.exclude(state="").values("state").order_by()
    activity = read_activity()
    return {
        "activity": activity,
        "pictures": pictures,
        "sizes": THUMBNAIL_SIZES,
        "airports": Airport.objects.count(),
        "states": states.annotate(airports=Count("id")).order_by("-airports", "state")[:6],
        "imports": [entry for entry in activity.of(tasks.import_airports) if entry.is_live],
        "webhooks": _webhooks(activity),
    }


def _webhooks(activity: Activity) -> list[tuple[Entry, Delivery | None]]:
    """Return the newest webhooks, each with what it delivers."""
    entries = activity.of(tasks.deliver_webhook)[:WEBHOOKS_SHOWN]
    deliveries = Delivery.objects.in_bulk([entry.row.args[0] for entry in entries])
    return [(entry, deliveries.get(UUID(entry.row.args[0]))) for entry in entries]
