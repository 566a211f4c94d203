"""Both ends of a webhook: sending it signed, and recognising the signature on arrival."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from django.conf import settings
from django.urls import reverse
from django.utils.crypto import constant_time_compare, salted_hmac

from .models import Delivery

SIGNATURE_HEADER = "X-Fieldnotes-Signature"

# No proxy of the environment stands between the site and itself.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ReceiverBusy(Exception):
    """The receiver failed on its side: worth another attempt."""


class ReceiverRefused(Exception):
    """The receiver understood and said no: another attempt would be refused as well."""


def send(delivery: Delivery, attempt: int) -> int:
    """POST the event to the receiver and return its answer's status.

    Raise ReceiverBusy or ReceiverRefused by the answer, URLError if there is none.
    """
    body = json.dumps({"event": delivery.event, "attempt": attempt}).encode()
    request = urllib.request.Request(  # the address is a setting, nobody's input
        settings.SITE_URL + reverse("fieldnotes:receive", args=[delivery.pk]),
        data=body,
        headers={"Content-Type": "application/json", SIGNATURE_HEADER: _sign(body)},
    )
    try:
        with _opener.open(request, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            answer = f"{error.code} {error.reason}"
        if error.code >= 500:
            raise ReceiverBusy(f"The receiver answered {answer}") from None
        raise ReceiverRefused(f"The receiver answered {answer}") from None


def is_signed(body: bytes, signature: str) -> bool:
    """Say whether this site signed the body."""
    return constant_time_compare(signature, _sign(body))


def _sign(body: bytes) -> str:
    return salted_hmac("fieldnotes.webhooks", body, algorithm="sha256").hexdigest()
