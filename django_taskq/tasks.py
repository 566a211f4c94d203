"""The tasks of the app itself: a worker finds them here, as it finds those of any app."""

from __future__ import annotations

from django_taskq.mail import send_mail

__all__ = ["send_mail"]
