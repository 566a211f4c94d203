"""The roles of the guide, made on the tests' server under names of their own."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import environ
import psycopg
from django.db import connection

from tests.docs.markdown import DOCS, Step, steps
from tests.support.databases import empty_database, migrate, url_of

PAGE = DOCS / "howto/database-roles.md"
PASSWORD = "only-for-tests"
LOGINS = ("deploy", "web", "worker", "support", "dashboard", "results")


@dataclass
class Roles:
    """A database whose tables the roles of the page share."""

    # As a superuser.
    url: str
    # What all names of roles begin with here; roles are shared by all databases of a server.
    prefix: str
    ran: list[Step] = field(default_factory=list)

    def name(self, role: str) -> str:
        """Return what a role of the page, such as shop_web, is called here."""
        return self.prefix + role

    def url_of(self, login: str) -> str:
        """Return the URL by which one of the page's logins connects: "web", "worker" …"""
        who = f"//{self.name('shop_' + login)}:{PASSWORD}@"
        return re.sub(r"//([^@/]*@)?", who, self.url, count=1)

    def run(self, block: Step, *, by: str) -> None:
        """Run a block of the page."""
        text = re.sub(r"\b(taskq|shop)_(\w+)\b", rf"{self.prefix}\1_\2", block.code)
        with psycopg.connect(by, autocommit=True) as runs:
            runs.execute(text)
        self.ran.append(block)

    @contextmanager
    def acting_as(self, login: str) -> Iterator[Any]:
        """Let Django connect as one of the page's logins."""
        settings = environ.Env.db_url_config(self.url_of(login))
        with mock.patch.dict(connection.settings_dict, settings):
            connection.close()
            try:
                yield connection
            finally:
                connection.close()


@contextmanager
def made(server_url: str) -> Iterator[Roles]:
    """Do what the page says, in its order, in a new database; clean up afterwards."""
    bundles, logins, rights = [step for step in steps(PAGE) if step.language == "sql"]
    with empty_database(server_url) as name:
        roles = Roles(url_of(server_url, name), f"t{uuid.uuid4().hex[:8]}_")
        try:
            roles.run(bundles, by=roles.url)
            roles.run(logins, by=roles.url)
            with psycopg.connect(roles.url, autocommit=True) as admin:
                for login in LOGINS:
                    admin.execute(f"ALTER ROLE {roles.name('shop_' + login)} PASSWORD '{PASSWORD}'")
            migrate(roles.url_of("deploy"))
            roles.run(rights, by=roles.url_of("deploy"))
            yield roles
        finally:
            drop(roles)


def drop(roles: Roles) -> None:
    """Drop the roles with what they own here."""
    with psycopg.connect(roles.url, autocommit=True) as admin:
        found = admin.execute(
            "SELECT rolname FROM pg_roles WHERE starts_with(rolname, %s)", [roles.prefix]
        ).fetchall()
        for (role,) in found:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
            )
            admin.execute(f"DROP OWNED BY {role} CASCADE")
        for (role,) in found:
            admin.execute(f"DROP ROLE {role}")
