"""Connect to a database by URL, as the package does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import environ
import psycopg
from django.db import connections

from django_taskq import db


@contextmanager
def worker_connection_to(url: str) -> Iterator[db.Connection]:
    """Open a worker's connection, with the session that workers have."""
    settings = environ.Env.db_url_config(url)
    with mock.patch.dict(connections["default"].settings_dict, settings):
        connection = db.worker_connection("default", name="test")
    with connection:
        yield connection


@contextmanager
def user_connection_to(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Open a plain connection, such as a project's own code has."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection
