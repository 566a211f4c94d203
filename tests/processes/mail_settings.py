"""The same project, with its mails in the queue and a mail server of the tests behind it."""

from __future__ import annotations

import django

from tests.processes.settings import *  # noqa: F403
from tests.processes.settings import env

_OURS = "django_taskq.mail.TaskqEmailBackend"
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {"BACKEND": _OURS, "OPTIONS": {"using": "smtp"}},
        "smtp": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "127.0.0.1", "port": env.int("SMTP_PORT", default=0)},
        },
    }
else:
    EMAIL_BACKEND = _OURS
    EMAIL_HOST = "127.0.0.1"
    EMAIL_PORT = env.int("SMTP_PORT", default=0)
