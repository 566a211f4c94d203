"""One page, a form target per action, and the receiver of the webhooks."""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "fieldnotes"
urlpatterns = [
    path("", views.index, name="index"),
    path("live/", views.live, name="live"),
    path("pictures/", views.add_picture, name="add_picture"),
    path("people/", views.sign_up, name="sign_up"),
    path("airports/", views.import_sheet, name="import_sheet"),
    path("webhooks/", views.announce, name="announce"),
    path("webhooks/<uuid:delivery_id>/", views.receive, name="receive"),
]
