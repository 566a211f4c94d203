"""Mails on their whole way: enqueued here, sent by a real worker to a real mail server."""

from __future__ import annotations

import email
import email.policy
import socket
from collections import Counter
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from django.core import mail
from django.db import transaction

from django_taskq.mail import TaskqEmailBackend
from django_taskq.models import FinishedTask, LiveTask
from tests.processes import mail_settings
from tests.processes.conftest import Starter
from tests.processes.support import sql, wait_until

pytestmark = pytest.mark.slow

# The mailer that a worker sends with, where Django has such names (6.1).
USING = "smtp" if hasattr(mail_settings, "MAILERS") else None


class PostOffice:
    """A mail server that accepts, puts off and refuses by the recipient's name."""

    def __init__(self) -> None:
        self.letters: list[tuple[list[str], EmailMessage]] = []
        self.asked: Counter[str] = Counter()

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        self.asked[address] += 1
        if address.startswith("nobody"):
            return "550 no such user"
        if address.startswith("grey") and self.asked[address] == 1:
            return "451 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(letter, EmailMessage)
        self.letters.append((envelope.rcpt_tos, letter))
        return "250 accepted"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def office() -> PostOffice:
    return PostOffice()


@pytest.fixture
def controller(office: PostOffice, port: int) -> Iterator[Controller]:
    """Yield the server of the office, which a test starts; stop it afterwards."""
    server = Controller(office, hostname="127.0.0.1", port=port)
    try:
        yield server
    finally:
        if server.server is not None:
            server.stop()


def enqueue(to: str, **fields: Any) -> None:
    message = mail.EmailMultiAlternatives("Grüße", "Hello", "me@example.org", [to], **fields)
    message.attach_alternative("<b>Hello</b>", "text/html")
    message.attach("table.bin", bytes(range(256)), "application/octet-stream")
    assert TaskqEmailBackend(using=USING).send_messages([message]) == 1


def make_due() -> None:
    """Let the retry come now: its time moves, the clock does not."""
    sql("UPDATE django_taskq_livetask SET run_after = clock_timestamp()")


def start_worker(start: Starter, port: int) -> None:
    settings = "tests.processes.mail_settings"
    start(children=1, settings=settings, environment={"SMTP_PORT": str(port)})


def test_a_mail_arrives_whole_and_its_bcc_stays_blind(
    start: Starter, controller: Controller, office: PostOffice, port: int
) -> None:
    controller.start()
    start_worker(start, port)
    with transaction.atomic():
        enqueue("ada@example.org", bcc=["eve@example.org"], headers={"X-Campaign": "spring"})
    wait_until(lambda: office.letters, what="the mail arrives")
    [(recipients, letter)] = office.letters
    assert recipients == ["ada@example.org", "eve@example.org"]
    assert (letter["Subject"], letter["To"], letter["Bcc"]) == ("Grüße", "ada@example.org", None)
    assert letter["X-Campaign"] == "spring"
    body, html = letter.get_body(("plain",)), letter.get_body(("html",))
    assert body is not None and body.get_content().strip() == "Hello"
    assert html is not None and html.get_content().strip() == "<b>Hello</b>"
    [attached] = letter.iter_attachments()
    assert (attached.get_filename(), attached.get_content()) == ("table.bin", bytes(range(256)))


def test_a_server_that_is_away_or_says_later_gets_the_mail_when_it_is_ready(
    start: Starter, controller: Controller, office: PostOffice, port: int
) -> None:
    start_worker(start, port)
    enqueue("grey@example.org")
    wait_until(lambda: LiveTask.objects.filter(attempts=1, status="READY"), what="nobody listens")
    controller.start()
    make_due()
    wait_until(lambda: LiveTask.objects.filter(attempts=2, status="READY"), what="451")
    make_due()
    wait_until(lambda: office.letters, what="the third attempt")
    task = wait_until(FinishedTask.objects.first)
    assert (task.status, task.attempts, task.return_value) == ("SUCCESSFUL", 3, 1)
    assert [e["message"].partition(":")[0] for e in task.errors] == [
        "ConnectionRefusedError",
        "SMTPRecipientsRefused",
    ]


def test_a_refused_recipient_fails_the_task_at_once(
    start: Starter, controller: Controller, office: PostOffice, port: int
) -> None:
    controller.start()
    start_worker(start, port)
    enqueue("nobody@example.org")
    task = wait_until(FinishedTask.objects.first)
    assert (task.status, task.attempts) == ("FAILED", 1)
    assert "no such user" in task.errors[0]["message"]
    assert office.letters == []
