"""Send mail through the queue: an email backend that enqueues, and the task that sends.

How to reach the mail server, and with which password, never stands in a row.
"""

from __future__ import annotations

import logging
import smtplib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import django
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.base import BaseEmailBackend
from django.db import Error
from django.utils.module_loading import import_string

from django_taskq import conf
from django_taskq.events import enqueue_log, one_line, task_log
from django_taskq.exceptions import PayloadTooLarge, TaskqError
from django_taskq.mail_messages import dump, load
from django_taskq.redact import RedactedError
from django_taskq.retries import exponential
from django_taskq.serialization import class_path
from django_taskq.task import TaskContext, task
from django_taskq.tasks_api import InvalidTask, has_tasks_setting, task_backends

if TYPE_CHECKING:
    from django_taskq.task import Task

# Seconds that a connection without a timeout of its own may be silent.
_SILENCE = 60
# About this message, where the other codes of 500 and more are about the server or the login.
_ABOUT_MESSAGE = (smtplib.SMTPSenderRefused, smtplib.SMTPDataError)


class MailNotSent(TaskqError):
    """An attempt to send a mail failed; another may follow."""


class MailRefused(MailNotSent):
    """The mail will never be accepted as it is: no further attempt is made."""


class TaskqEmailBackend(BaseEmailBackend):
    """Enqueue mails in the caller's transaction; a worker sends them through a real backend."""

    def __init__(
        self,
        fail_silently: bool = False,
        *,
        using: str | None = None,
        queue_name: str | None = None,
        alias: str | None = None,
        **options: Any,
    ) -> None:
        """Take the options of MAILERS (Django 6.1): `using` and `queue_name`.

        Raise ImproperlyConfigured for options of a connection, such as a host or a password.
        """
        # send_mail() passes None for what it was not given.
        options = {name: value for name, value in options.items() if value is not None}
        for name in options:
            if not name.startswith("_"):
                _refuse_option(name)
        if django.VERSION >= (6, 1):
            super().__init__(alias=alias, **options)
        else:
            super().__init__()
        self.fail_silently = fail_silently
        if alias is not None and (not using or using == alias):
            raise ImproperlyConfigured(
                f'MAILERS["{alias}"]["OPTIONS"]["using"] is {using!r}; it takes the alias of the '
                "mailer that a worker sends with."
            )
        self.using = using
        self.queue_name = queue_name

    def send_messages(self, email_messages: Sequence[mail.EmailMessage]) -> int:
        """Enqueue a task per message that has recipients; return how many.

        Raise ArgumentsError or PayloadTooLarge for a message that cannot be stored, ValueError for
        one that Django would refuse to send. With `fail_silently` a database that cannot take the
        task is logged only.
        """
        messages = [message for message in email_messages or () if message.recipients()]
        if not messages or _is_about_a_failed_mail():
            return 0
        calls = [self._call(message) for message in messages]
        try:
            _enqueue(self._task(), calls, messages)
        except Error as error:
            if not self.fail_silently:
                raise
            what = one_line(str(error).strip())
            enqueue_log.error("%d mail(s) could not be enqueued: %s", len(calls), what)
            return 0
        return len(calls)

    def _task(self) -> Task[..., int]:
        queue = self.queue_name or conf.get().email_queue
        try:
            return send_mail.using(queue_name=queue)
        except InvalidTask as error:
            raise ImproperlyConfigured(
                f"Mails cannot be enqueued: {error} Name an allowed queue in "
                'DJANGO_TASKQ["EMAIL_QUEUE"], or allow it in QUEUES of the TASKS setting.'
            ) from None

    def _call(self, message: mail.EmailMessage) -> dict[str, Any]:
        call: dict[str, Any] = {"to": [str(to) for to in message.to], "message": dump(message)}
        if self.using is not None:
            call["using"] = self.using
        if self.fail_silently:
            call["fail_silently"] = True
        return call


def _home() -> tuple[str, str]:
    """Return a backend and a queue that the project allows, so that the task can be defined."""
    wanted = conf.get().email_queue
    if not has_tasks_setting():
        return "default", wanted
    aliases = list(task_backends.settings)
    ours = [alias for alias in aliases if hasattr(task_backends[alias], "database")]
    alias = "default" if "default" in aliases or not ours else ours[0]
    allowed = task_backends[alias].queues
    return alias, wanted if wanted in allowed or not allowed else min(allowed)


_backend, _queue = _home()


@task(
    backend=_backend,
    queue_name=_queue,
    takes_context=True,
    # All is said here that a project's TASK_DEFAULTS, which has other tasks in mind, might say.
    max_attempts=12,
    retry_on=MailNotSent,
    give_up_on=MailRefused,
    # Two hours and a half on average, five at most.
    backoff=exponential(base=30, cap=3600),
    timeout=600,
    soft_timeout=None,
    expires_after=None,
    # What may be a secret: a code in a subject, a link in a text, a merge field of a provider's.
    redact=("subject", "body", "text", "base64", "mime", "part", "headers", "extra"),
)
def send_mail(
    context: TaskContext,
    to: list[str],
    message: dict[str, Any],
    using: str | None = None,
    fail_silently: bool = False,
) -> int:
    """Send a stored mail through the real backend; return what that returns.

    Raise MailRefused if another attempt would not help, MailNotSent if it may.
    """
    try:
        return _real_backend(using).send_messages([load(to, message)]) or 0
    except Exception as error:
        is_final = _is_final(error)
        if fail_silently and (is_final or context.attempt >= context.max_attempts):
            task_log.warning("A mail was not sent, silently as asked: %s", type(error).__qualname__)
            return 0
        kind = MailRefused if is_final else MailNotSent
        raise kind(f"{type(error).__qualname__}: {error}") from error


# --- enqueueing -----------------------------------------------------------------------------------


def _enqueue(
    sender: Task[..., int], calls: list[dict[str, Any]], messages: Sequence[mail.EmailMessage]
) -> None:
    """Enqueue all of the calls or none."""
    try:
        if len(calls) == 1:
            sender.enqueue(**calls[0])
        else:
            sender.enqueue_many(calls)
    except PayloadTooLarge as error:
        attached = sum(len(message.attachments) for message in messages)
        raise PayloadTooLarge(
            f"A mail with {attached} attachment(s) is too large for the queue: "
            f"{str(error).partition(': ')[2].partition('. Store')[0]}. Raise "
            'DJANGO_TASKQ["PAYLOAD_LIMIT"]; or keep the files in a storage and attach them in a '
            "task of yours, which sends with the connection of the real backend; or mail a link."
        ) from None


def _refuse_option(name: str) -> NoReturn:
    raise ImproperlyConfigured(
        f"TaskqEmailBackend got {name}=…, which would have to stand in the database. Put it into "
        "the settings of the real backend (EMAIL_…, or its entry in MAILERS), or send at once with "
        "a connection of that backend: get_connection('django.core.mail.backends.smtp."
        f"EmailBackend', {name}=…)."
    )


def _is_about_a_failed_mail() -> bool:
    """Say whether somebody reports, by mail, that a mail could not be sent.

    Django logs a failed task while its exception is being handled, and AdminEmailHandler makes a
    mail of that. Enqueued, it would fail in its turn, and so on for ever.
    """
    error: BaseException | None = sys.exc_info()[1]
    while error is not None:
        if isinstance(error, MailNotSent) or _stands_for_one(error):
            enqueue_log.log(logging.WARNING, "No mail is sent about a mail that was not sent.")
            return True
        error = error.__cause__ or error.__context__
    return False


def _stands_for_one(error: BaseException) -> bool:
    """Say whether an error is shown, with its secrets masked, in place of a MailNotSent."""
    paths = [class_path(kind) for kind in (MailNotSent, MailRefused)]
    return isinstance(error, RedactedError) and any(path in str(error) for path in paths)


# --- sending --------------------------------------------------------------------------------------


def check_real_backend() -> None:
    """Raise ImproperlyConfigured unless DJANGO_TASKQ["EMAIL_BACKEND"] is a backend but ours."""
    path = conf.get().email_backend
    try:
        found = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f'DJANGO_TASKQ["EMAIL_BACKEND"] is {path!r}, which cannot be imported: {error}'
        ) from None
    if isinstance(found, type) and issubclass(found, TaskqEmailBackend):
        raise ImproperlyConfigured(
            'DJANGO_TASKQ["EMAIL_BACKEND"] is the backend that enqueues: mails would be enqueued '
            "again and again. It takes the one that sends, such as "
            '"django.core.mail.backends.smtp.EmailBackend".'
        )


def _real_backend(using: str | None) -> Any:
    """Make the backend that sends: the mailer of this alias, else the one of the setting."""
    if using is not None:
        backend: Any = mail.mailers[using]
        if isinstance(backend, TaskqEmailBackend):
            raise ImproperlyConfigured(
                f'MAILERS["{using}"] enqueues too; "using" takes the mailer that sends.'
            )
    else:
        check_real_backend()
        backend = mail.get_connection(conf.get().email_backend)
    if getattr(backend, "timeout", _SILENCE) is None:
        backend.timeout = _SILENCE
    return backend


def _is_final(error: Exception) -> bool:
    """Say whether another attempt would come to the same end."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return all(code >= 500 for code, _ in error.recipients.values())
    if isinstance(error, _ABOUT_MESSAGE):
        return error.smtp_code >= 500
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return True
    # Of the backends that talk HTTP. Wait and see at "too many requests" and "timed out".
    code = getattr(error, "status_code", None)
    if isinstance(code, int):
        return 400 <= code < 500 and code not in (408, 429)
    # What is wrong with the message, not with the settings or the network.
    return isinstance(error, ValueError | TypeError | LookupError) and not isinstance(
        error, OSError | ImproperlyConfigured
    )
