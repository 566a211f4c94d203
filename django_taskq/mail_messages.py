"""Write a mail as JSON values, and make the mail again of them.

Its fields are written and not its MIME form, so that any backend can send it: those that talk to a
provider's API read the fields.
"""

from __future__ import annotations

import base64
import email
import io
from collections.abc import Iterable, Mapping
from datetime import datetime
from email.generator import BytesGenerator
from email.message import Message, MIMEPart
from email.mime.base import MIMEBase
from email.policy import Policy, compat32
from email.policy import default as modern
from email.utils import format_datetime
from typing import Any

from django.core import mail
from django.core.mail.message import EmailAlternative, EmailAttachment
from django.utils.functional import Promise

from django_taskq.exceptions import ArgumentsError

# What a subclass of Django's message may set on the class.
_STYLE = ("content_subtype", "mixed_subtype", "alternative_subtype", "encoding")
# Attributes of Django's message; what else one has travels as it is.
_OWN = frozenset(vars(mail.EmailMultiAlternatives())) | {*_STYLE, "connection"}


def dump(message: mail.EmailMessage) -> dict[str, Any]:
    """Return what a message says, less its `to`, as JSON values.

    Raise ArgumentsError for a message that builds its MIME form itself, ValueError for one that
    Django would refuse to send.
    """
    if type(message).message not in _KNOWN_MESSAGE:
        kind = type(message).__qualname__
        raise ArgumentsError(
            f"{kind} has a message() of its own, which a worker could not call. Send it in a task "
            "of yours, with the connection of the real backend."
        )
    # Refuses line breaks in headers and broken addresses here, where they belong.
    built = message.message()
    stored: dict[str, Any] = {
        "subject": str(message.subject),
        "body": str(message.body or ""),
        "from_email": str(message.from_email),
        "headers": {str(k): _header(v) for k, v in (message.extra_headers or {}).items()},
        # The same in each attempt: a mail that was sent twice is recognised as one.
        "id": str(built["Message-ID"]),
        "date": str(built["Date"]),
    }
    for field in ("cc", "bcc", "reply_to"):
        if addresses := getattr(message, field):
            stored[field] = [str(address) for address in addresses]
    if message.attachments:
        stored["attachments"] = [_dump_attachment(item) for item in message.attachments]
    if alternatives := getattr(message, "alternatives", None):
        stored["alternatives"] = [_dump_content(*item) for item in alternatives]
    for name in _STYLE:
        value = getattr(message, name, None)
        if value != getattr(mail.EmailMultiAlternatives, name, None):
            stored[name] = _style(name, value)
    extra = {k: v for k, v in vars(message).items() if k not in _OWN and k[:1] != "_"}
    if extra:  # of django-anymail, for example: tags, metadata, template_id
        stored["extra"] = extra
    return stored


def load(to: Iterable[str], stored: Mapping[str, Any]) -> mail.EmailMultiAlternatives:
    """Rebuild the message that `dump` was given."""
    message = StoredMail(
        subject=stored["subject"],
        body=stored["body"],
        from_email=stored["from_email"],
        to=list(to),
        headers=dict(stored["headers"]),
        **{field: stored.get(field, []) for field in ("cc", "bcc", "reply_to")},
    )
    message.fixed = {"Message-ID": stored["id"], "Date": stored["date"]}
    message.attachments = [_load_attachment(item) for item in stored.get("attachments", ())]
    message.alternatives = [
        EmailAlternative(_load_content(item), item["mimetype"])
        for item in stored.get("alternatives", ())
    ]
    for name in _STYLE:
        if name in stored:
            setattr(message, name, stored[name])
    for name, value in stored.get("extra", {}).items():
        setattr(message, name, value)
    return message


class StoredMail(mail.EmailMultiAlternatives):
    """A message that was enqueued: its MIME form has the id and the date that it got then."""

    fixed: Mapping[str, str] = {}

    def message(self, **options: Any) -> Any:
        """Build the MIME form."""
        built = super().message(**options)
        for header, value in self.fixed.items():
            del built[header]
            built[header] = value
        return built


_KNOWN_MESSAGE = (
    mail.EmailMessage.message,
    mail.EmailMultiAlternatives.message,
    StoredMail.message,
)


def _header(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_datetime(value)
    return value if isinstance(value, int | float) else str(value)


def _style(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str | Promise):
        raise ArgumentsError(
            f"{name} of a mail is {value!r}, which is not JSON. Give the name of the character "
            "set, such as 'utf-8'."
        )
    return None if value is None else str(value)


def _dump_attachment(item: Any) -> dict[str, Any]:
    if isinstance(item, MIMEPart):
        return {"part": _base64(_as_bytes(item))}
    if isinstance(item, MIMEBase):
        return {"mime": _base64(_as_bytes(item))}
    filename, content, mimetype = item
    name = None if filename is None else str(filename)
    return {"filename": name, **_dump_content(content, mimetype)}


def _dump_content(content: Any, mimetype: str) -> dict[str, Any]:
    if isinstance(content, mail.EmailMessage):
        content = content.message()
    if isinstance(content, Message):
        content = _as_bytes(content)
    if isinstance(content, bytes | bytearray | memoryview):
        return {"mimetype": mimetype, "base64": _base64(bytes(content))}
    return {"mimetype": mimetype, "text": str(content)}


def _load_attachment(item: Mapping[str, Any]) -> Any:
    if "part" in item:
        # The stubs know no other modern class than EmailMessage, which is a MIMEPart.
        kind: Any = MIMEPart
        return email.message_from_bytes(base64.b64decode(item["part"]), _class=kind, policy=modern)
    if "mime" in item:
        return email.message_from_bytes(
            base64.b64decode(item["mime"]), _class=_StoredPart, policy=compat32
        )
    return EmailAttachment(item["filename"], _load_content(item), item["mimetype"])


def _load_content(item: Mapping[str, Any]) -> Any:
    return base64.b64decode(item["base64"]) if "base64" in item else item["text"]


class _StoredPart(MIMEBase):
    """A MIME part that is parsed: Django knows parts by this base."""

    def __init__(self, policy: Policy[Any] = compat32) -> None:
        Message.__init__(self, policy=policy)


def _as_bytes(part: Message) -> bytes:
    """Return a part's MIME form, with a line that begins with "From " as it is."""
    written = io.BytesIO()
    BytesGenerator(written, mangle_from_=False).flatten(part)
    return written.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
