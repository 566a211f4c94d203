"""One page that enqueues."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path

from shop.tasks import add_group


def enqueue(request: HttpRequest, name: str) -> HttpResponse:
    """Enqueue, and say which task it was."""
    return HttpResponse(add_group.enqueue(name).id)


urlpatterns = [path("enqueue/<str:name>/", enqueue)]
