"""Mail through the queue: what is enqueued, what a worker sends of it, and what it does not."""

from __future__ import annotations

import json
import logging
import smtplib
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from email.message import MIMEPart
from email.mime.image import MIMEImage
from email.utils import parsedate_to_datetime
from typing import Any

import django
import pytest
from django.conf import settings
from django.core import mail
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.mail.backends.locmem import EmailBackend as Locmem
from django.db import DatabaseError, transaction
from django.test import Client, override_settings
from django.urls import reverse
from django.utils.translation import gettext_lazy

from django_taskq import ArgumentsError, PayloadTooLarge
from django_taskq.mail import TaskqEmailBackend, send_mail
from django_taskq.mail_messages import dump, load
from django_taskq.models import LiveTask
from django_taskq.outcomes import Completed, Failed, Outcome, Retrying
from django_taskq.tasks_api import LOGGER_NAME
from tests.test_imports import run
from tests.worker.samples import claimed
from tests.worker.test_executor import Watched

OURS = "django_taskq.mail.TaskqEmailBackend"
LOCMEM = "django.core.mail.backends.locmem.EmailBackend"
HAS_MAILERS = django.VERSION >= (6, 1)
PNG = b"\x89PNG\r\n\x1a\n\x00\x01\xff"


class Broken(Locmem):
    """A real backend that raises what a test asks for."""

    error: Exception = ConnectionRefusedError("nobody listens")

    def send_messages(self, messages: Any) -> int:
        raise self.error


def through_the_queue(real: str = LOCMEM, **more: Any) -> AbstractContextManager[Any]:
    """Settings with which mails are enqueued, and sent by `real`."""
    if not HAS_MAILERS:
        return override_settings(
            EMAIL_BACKEND=OURS,
            DJANGO_TASKQ={"EMAIL_BACKEND": real, **more.pop("taskq", {})},
            **more,
        )
    mailers = {
        "default": {"BACKEND": OURS, "OPTIONS": {"using": "real"}},
        "real": {"BACKEND": real},
    }
    return override_settings(MAILERS=mailers, DJANGO_TASKQ=more.pop("taskq", {}), **more)


def run_it(row: LiveTask | None = None, *, attempts: int = 1) -> Outcome:
    """Run the one enqueued mail as a worker does."""
    row = row or LiveTask.objects.get()
    assert row.task == "django_taskq.mail.send_mail"
    return Watched().run(
        claimed(
            send_mail,
            kwargs=json.dumps(row.kwargs),
            attempts=attempts,
            max_attempts=row.max_attempts,
        )
    )


def a_message(**changes: Any) -> mail.EmailMultiAlternatives:
    values: dict[str, Any] = {
        "subject": "Grüße",
        "body": "From here\nto “there” 🚀\n",
        "from_email": "Jürgen <j@example.org>",
        "to": ["a@example.org", "B <b@example.org>"],
        "cc": ["c@example.org"],
        "bcc": ["d@example.org"],
        "reply_to": ["r@example.org"],
        "headers": {"X-Campaign": "spring", "List-Unsubscribe": "<https://example.org/u>"},
        **changes,
    }
    return mail.EmailMultiAlternatives(**values)


def a_full_message() -> mail.EmailMultiAlternatives:
    message = a_message()
    message.attach_alternative("<p>Grüße <img src='cid:logo'></p>", "text/html")
    message.attach("notes.txt", "Zeile\nFrom the top\n", "text/plain")
    message.attach("zähler.bin", bytes(range(256)), "application/octet-stream")
    message.attach("forwarded.eml", a_message(subject="Inner").message(), "message/rfc822")
    if django.VERSION >= (6, 0):
        part: Any = MIMEPart()
        part.set_content(PNG, maintype="image", subtype="png", cid="<logo>", disposition="inline")
    else:
        part = MIMEImage(PNG, "png")
        part.add_header("Content-ID", "<logo>")
        part.add_header("Content-Disposition", "inline", filename="logo.png")
    message.attach(part)
    return message


def passed_on(message: mail.EmailMessage) -> mail.EmailMultiAlternatives:
    """Return what a worker makes of a message: by way of JSON text, as in the database."""
    stored = json.loads(json.dumps(dump(message)))
    return load(json.loads(json.dumps([str(to) for to in message.to])), stored)


def parts(message: mail.EmailMessage) -> list[Any]:
    """Return what a recipient's program reads, without the boundaries, which are random."""
    return [
        [
            sorted((name, str(value)) for name, value in part.items() if name != "Content-Type"),
            part.get_content_type(),
            part.get_content_charset(),
            part.get_filename(),
            None if part.is_multipart() else part.get_payload(decode=True),
        ]
        for part in message.message().walk()
    ]


# --- messages come back equal ---------------------------------------------------------------------


def test_a_message_comes_back_with_every_field() -> None:
    message = a_full_message()
    back = passed_on(message)
    for field in ("subject", "body", "from_email", "to", "cc", "bcc", "reply_to", "extra_headers"):
        assert getattr(back, field) == getattr(message, field), field
    assert back.alternatives == message.alternatives
    assert [tuple(item) for item in back.attachments[:2]] == [
        tuple(item) for item in message.attachments[:2]
    ]
    assert back.recipients() == message.recipients()


def test_recipients_read_the_same_mail_as_without_the_queue() -> None:
    message = a_full_message()
    back = passed_on(message)
    fixed = {"Message-ID": back.message()["Message-ID"], "Date": back.message()["Date"]}
    message.extra_headers = {**message.extra_headers, **{k: str(v) for k, v in fixed.items()}}
    assert parts(back) == parts(message)
    assert "\n>From" not in back.message().as_string()


def test_a_mail_that_is_sent_twice_has_one_id_and_the_date_of_its_enqueueing() -> None:
    back = passed_on(a_message())
    first, second = back.message(), back.message()
    assert str(first["Message-ID"]) == str(second["Message-ID"])
    assert first.get_all("Message-ID") and len(first.get_all("Message-ID")) == 1
    sent_at = parsedate_to_datetime(str(first["Date"])).replace(tzinfo=UTC)
    assert abs((sent_at - datetime.now(UTC)).total_seconds()) < 60
    own = passed_on(a_message(headers={"Message-ID": "<mine@example.org>"}))
    assert str(own.message()["Message-ID"]) == "<mine@example.org>"


def test_what_subclasses_set_and_what_other_packages_add_is_kept() -> None:
    class Html(mail.EmailMessage):
        content_subtype = "html"

    assert passed_on(Html("s", "<p>b", "a@example.org", ["b@example.org"])).content_subtype == (
        "html"
    )
    message = a_message(body="Grüße")
    message.encoding = "iso-8859-1"
    message.tags = ["welcome"]  # as django-anymail has it
    back: Any = passed_on(message)
    assert back.tags == ["welcome"]
    assert back.message().get_content_charset() == "iso-8859-1"


def test_lazy_texts_are_written_in_the_language_of_the_moment() -> None:
    from django.utils import translation

    message = mail.EmailMessage(gettext_lazy("Yes"), "b", None, ["a@example.org"])
    with translation.override("de"):
        assert passed_on(message).subject == "Ja"


def test_a_message_that_builds_its_own_mime_form_is_refused() -> None:
    class Signed(mail.EmailMessage):
        def message(self, **options: Any) -> Any:
            return super().message(**options)

    with pytest.raises(ArgumentsError, match=r"Signed has a message\(\) of its own"):
        dump(Signed("s", "b", None, ["a@example.org"]))


# --- enqueueing -----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_mail_exists_if_the_transaction_commits() -> None:
    with through_the_queue():
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            assert mail.send_mail("s", "b", None, ["a@example.org"]) == 1
            raise ZeroDivisionError
        assert not LiveTask.objects.exists()

        assert mail.send_mail("s", "b", None, ["a@example.org"]) == 1
        row = LiveTask.objects.get()
        assert (row.queue_name, row.kwargs["to"]) == ("default", ["a@example.org"])
        assert mail.outbox == []
        outcome = run_it(row)
    assert isinstance(outcome, Completed) and outcome.value == "1"
    [sent] = mail.outbox
    assert (sent.subject, sent.body, sent.to) == ("s", "b", ["a@example.org"])
    assert sent.from_email == settings.DEFAULT_FROM_EMAIL


@pytest.mark.django_db
def test_the_count_is_that_of_the_messages_with_recipients() -> None:
    data = [("s", "b", None, [f"{name}@example.org"]) for name in "abc"]
    with through_the_queue():
        assert mail.send_mass_mail((*data, ("s", "b", None, []))) == 3
        assert LiveTask.objects.count() == 3
        assert TaskqEmailBackend().send_messages([]) == 0


@pytest.mark.django_db
def test_the_queue_can_be_chosen() -> None:
    with through_the_queue(taskq={"EMAIL_QUEUE": "mail"}):
        mail.send_mail("s", "b", None, ["a@example.org"])
    TaskqEmailBackend(queue_name="slow").send_messages([a_message()])
    assert [row.queue_name for row in LiveTask.objects.order_by("id")] == ["mail", "slow"]


@pytest.mark.django_db
def test_a_queue_that_the_project_does_not_allow_is_refused_with_the_setting_to_change() -> None:
    tasks = {"default": {"BACKEND": "django_taskq.backend.TaskqBackend", "QUEUES": ["mail"]}}
    with (
        override_settings(TASKS=tasks),
        through_the_queue(),
        pytest.raises(ImproperlyConfigured, match="EMAIL_QUEUE"),
    ):
        mail.send_mail("s", "b", None, ["a@example.org"])


@pytest.mark.django_db
def test_a_header_that_could_inject_others_is_refused_at_the_call() -> None:
    with through_the_queue(), pytest.raises(ValueError, match=r"newline|linefeed"):
        mail.send_mail("s\nBcc: x@example.org", "b", None, ["a@example.org"])
    assert not LiveTask.objects.exists()


@pytest.mark.django_db
def test_a_mail_over_the_limit_is_refused_with_the_ways_out() -> None:
    message = a_message()
    message.attach("film.bin", b"x" * 60_000, "application/octet-stream")
    with pytest.raises(PayloadTooLarge) as caught:
        TaskqEmailBackend().send_messages([message])
    said = str(caught.value)
    assert said.startswith("A mail with 1 attachment(s) is too large for the queue: the arguments")
    assert "the limit is 65,536. Raise DJANGO_TASKQ" in said
    with override_settings(DJANGO_TASKQ={"PAYLOAD_LIMIT": 200_000}):
        assert TaskqEmailBackend().send_messages([message]) == 1


def test_options_of_a_connection_are_refused_because_rows_do_not_hold_them() -> None:
    with pytest.raises(ImproperlyConfigured, match="password") as caught:
        TaskqEmailBackend(password="geheim")
    assert "geheim" not in str(caught.value)
    assert TaskqEmailBackend(username=None, password=None).fail_silently is False


@pytest.mark.django_db
def test_fail_silently_covers_a_database_that_cannot_take_the_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> None:
        raise DatabaseError("it is down")

    monkeypatch.setattr("django_taskq.backend.enqueue_with_hint", refuse)
    with pytest.raises(DatabaseError):
        TaskqEmailBackend().send_messages([a_message()])
    assert TaskqEmailBackend(fail_silently=True).send_messages([a_message()]) == 0
    assert "1 mail(s) could not be enqueued: it is down" in caplog.text


@pytest.mark.django_db
def test_the_admin_shows_to_whom_a_mail_goes_and_not_what_it_says(
    admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = a_message(subject="Your code is 271828", body="https://example.org/reset/314159/")
    message.attach_alternative("<a href='https://example.org/reset/314159/'>Reset</a>", "text/html")
    message.attach("key.txt", "161803", "text/plain")
    TaskqEmailBackend(using="real" if HAS_MAILERS else None).send_messages([message])
    row = LiveTask.objects.get()
    link = reverse("admin:django_taskq_livetask_change", args=[row.pk])
    page = admin_client.get(link).content.decode()
    assert "a@example.org" in page and "d@example.org" in page
    for secret in ("271828", "314159", "161803", "spring"):
        assert secret not in page

    # A mail server may repeat what it was told.
    error = smtplib.SMTPDataError(554, b"spam: https://example.org/reset/314159/ in 271828")
    monkeypatch.setattr(Broken, "error", error)
    with through_the_queue(f"{__name__}.Broken"):
        outcome = run_it(row)
    assert isinstance(outcome, Failed)
    assert "554" in outcome.error and "314159" not in outcome.error


# --- sending --------------------------------------------------------------------------------------


def outcome_of(error: Exception, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Outcome:
    """Enqueue a mail and run it with a real backend that raises `error`."""
    monkeypatch.setattr(Broken, "error", error)
    attempts = options.pop("attempts", 1)
    with through_the_queue(f"{__name__}.Broken"):
        TaskqEmailBackend(using="real" if HAS_MAILERS else None, **options).send_messages(
            [a_message()]
        )
        return run_it(attempts=attempts)


class HttpError(Exception):
    """What the backends that talk HTTP raise."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code


@pytest.mark.django_db
@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        smtplib.SMTPServerDisconnected("gone"),
        smtplib.SMTPConnectError(421, b"busy"),
        smtplib.SMTPAuthenticationError(535, b"bad password"),  # the settings' fault
        smtplib.SMTPDataError(451, b"greylisted"),
        smtplib.SMTPSenderRefused(450, b"later", "a@example.org"),
        smtplib.SMTPRecipientsRefused({"a": (450, b"later"), "b": (550, b"no such user")}),
        HttpError(429),
        HttpError(503),
        RuntimeError("who knows"),
        ImproperlyConfigured("no such mailer"),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = outcome_of(error, monkeypatch)
    assert isinstance(outcome, Retrying)
    assert json.loads(outcome.error)["exception_class_path"] == "django_taskq.mail.MailNotSent"


@pytest.mark.django_db
@pytest.mark.parametrize(
    "error",
    [
        smtplib.SMTPRecipientsRefused({"a": (550, b"no such user")}),
        smtplib.SMTPDataError(554, b"spam"),
        smtplib.SMTPSenderRefused(553, b"not yours", "a@example.org"),
        smtplib.SMTPNotSupportedError(),
        HttpError(422),
        ValueError("bad address"),
    ],
    ids=repr,
)
def test_what_was_refused_for_good_is_not_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = outcome_of(error, monkeypatch)
    assert isinstance(outcome, Failed)
    record = json.loads(outcome.error)
    assert record["exception_class_path"] == "django_taskq.mail.MailRefused"
    assert type(error).__qualname__ in record["message"]


@pytest.mark.django_db
def test_fail_silently_ends_without_a_failure_when_the_attempts_are_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silently: dict[str, Any] = {"fail_silently": True}
    assert isinstance(outcome_of(TimeoutError(), monkeypatch, **silently), Retrying)
    LiveTask.objects.all().delete()
    last = outcome_of(TimeoutError(), monkeypatch, attempts=12, **silently)
    assert isinstance(last, Completed) and last.value == "0"


@pytest.mark.django_db
def test_a_report_by_mail_of_a_failed_mail_is_not_enqueued(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from django.utils.log import AdminEmailHandler

    admins: Any = (
        ["root@example.org"] if django.VERSION >= (6, 0) else [("Root", "root@example.org")]
    )
    log = logging.getLogger(LOGGER_NAME)
    handler = AdminEmailHandler()
    handler.setLevel(logging.ERROR)
    log.addHandler(handler)
    log.propagate = False
    try:
        with override_settings(ADMINS=admins):
            refused = smtplib.SMTPDataError(554, b"spam")
            assert isinstance(outcome_of(refused, monkeypatch), Failed)
            assert LiveTask.objects.count() == 1  # the mail itself, and none about it
            assert "No mail is sent about a mail that was not sent." in caplog.text
            # Another task's failure is reported as ever.
            with through_the_queue():
                log.error("Something else has failed.")
                assert LiveTask.objects.count() == 2
    finally:
        log.propagate = True
        log.removeHandler(handler)


@pytest.mark.django_db
def test_a_connection_that_never_times_out_gets_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        Broken, "send_messages", lambda self, messages: seen.append(self.timeout) or 1
    )
    monkeypatch.setattr(Broken, "timeout", None, raising=False)
    with through_the_queue(f"{__name__}.Broken"):
        mail.send_mail("s", "b", None, ["a@example.org"])
        assert isinstance(run_it(), Completed)
    assert seen == [60]


def test_a_projects_defaults_for_its_tasks_do_not_change_how_mails_are_retried() -> None:
    printed = run(
        """
        import django
        from django.conf import settings

        defaults = {"retry_on": [KeyError], "timeout": 1000, "soft_timeout": 900}
        settings.DJANGO_TASKQ = {"TASK_DEFAULTS": {**defaults, "expires_after": 5}}
        django.setup()
        from django_taskq.mail import send_mail
        print([kind.__name__ for kind in send_mail.retry_on], send_mail.timeout)
        print(send_mail.soft_timeout, send_mail.expires_after)
        """,
        DJANGO_SETTINGS_MODULE="tests.settings",
    )
    assert printed == "['MailNotSent'] 600.0\nNone None"


# --- mistakes in the settings ---------------------------------------------------------------------


@pytest.mark.skipif(HAS_MAILERS, reason="EMAIL_BACKEND gives way to MAILERS in Django 6.1")
@pytest.mark.parametrize("path", [OURS, "nowhere.Backend"])
def test_a_backend_that_cannot_send_is_found_by_the_checks(path: str) -> None:
    with through_the_queue(path):
        [error] = [e for e in run_checks() if e.id == "django_taskq.E002"]
    assert 'DJANGO_TASKQ["EMAIL_BACKEND"]' in error.msg


@pytest.mark.skipif(not HAS_MAILERS, reason="Django before 6.1 has no MAILERS")
@pytest.mark.django_db
def test_a_mailer_names_the_one_that_sends() -> None:
    ours = {"BACKEND": OURS, "OPTIONS": {"using": "real"}}
    with (
        override_settings(MAILERS={"default": {"BACKEND": OURS}}),
        pytest.raises(ImproperlyConfigured, match="using"),
    ):
        mail.send_mail("s", "b", None, ["a@example.org"])
    circle = {"default": ours, "real": {"BACKEND": OURS, "OPTIONS": {"using": "default"}}}
    with override_settings(MAILERS=circle):
        mail.send_mail("s", "b", None, ["a@example.org"])
        outcome = run_it()
    assert isinstance(outcome, Retrying) and "enqueues too" in outcome.error
