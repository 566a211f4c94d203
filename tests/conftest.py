from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import environ
import psycopg
import pytest

from example_project import embedded_postgres
from tests.versions import versions

SERVER = pytest.StashKey[ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    """Start a server when DATABASE_URL names none: once, not in each process of xdist."""
    if os.environ.get("DATABASE_URL") or hasattr(config, "workerinput"):
        return
    from django.conf import settings

    running = ExitStack()
    try:
        url = running.enter_context(embedded_postgres.serve(fast=True))
    except embedded_postgres.EmbeddedPostgresError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SERVER] = running
    os.environ["DATABASE_URL"] = url
    # pytest-django has loaded the settings already; Django's connections share this dictionary.
    settings.DATABASES["default"].update(environ.Env.db_url_config(url))


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVER in config.stash:
        config.stash[SERVER].close()
        del os.environ["DATABASE_URL"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless -m asks for it or a test is named."""
    if "chaos" in config.option.markexpr or any("::" in argument for argument in config.args):
        return
    left_out = [item for item in items if item.get_closest_marker("chaos")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("chaos")]


def pytest_report_header() -> str:
    return versions()


@pytest.fixture(scope="session")
def server_url() -> str:
    """Return the URL of the server's own database, which is not the one of the tests."""
    return os.environ["DATABASE_URL"]


@pytest.fixture(scope="session")
def machine_server_url(server_url: str) -> Iterator[str]:
    """Yield the URL of a server of the `initdb` in PATH, if it is of another major version."""
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.skip("no initdb in PATH")
    with embedded_postgres.serve(bin_dir=Path(initdb).parent, fast=True) as url:
        with psycopg.connect(url) as theirs, psycopg.connect(server_url) as ours:
            same = theirs.info.server_version // 10_000 == ours.info.server_version // 10_000
        if same:
            pytest.skip("the initdb in PATH is of the version that is being tested anyway")
        yield url
