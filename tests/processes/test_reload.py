"""--reload: a change of code, and the worker goes on with it."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from tests.processes.conftest import Starter
from tests.processes.support import TaskWorker, is_alive, sql, wait_until

pytestmark = pytest.mark.slow

SETTINGS = """
    from tests.processes.settings import *
    INSTALLED_APPS = [*INSTALLED_APPS, "shop"]
    DEBUG = True
"""


class Shop:
    """A project whose code changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "shop").mkdir()
        (directory / "shop" / "__init__.py").touch()
        (directory / "shop_settings.py").write_text(textwrap.dedent(SETTINGS))
        self.write("return 'first'")

    def write(self, body: str, *, file: str = "tasks") -> None:
        """Change what the task does."""
        source = f"""
            import time
            from django_taskq import task

            @task(name="shop.ship")
            def ship(seconds=0):
                time.sleep(seconds)
                {body}
        """
        path = self.directory / "shop" / f"{file}.py"
        path.write_text(textwrap.dedent(source))
        # An import may take a compiled file of the same second and size for this one.
        os.utime(path, (time.time(), time.time() + len(body)))

    def ship(self, seconds: float = 0) -> str:
        """Enqueue the task, as a row, since the tests do not know the function."""
        ((id,),) = sql(
            "INSERT INTO django_taskq_livetask (task, args) "
            "VALUES ('shop.ship', json_build_array(%s::float)) RETURNING id",
            seconds,
        )
        return str(id)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def result_of(id: str) -> str:
    def finished() -> list[tuple[str, ...]]:
        return sql("SELECT return_value::text FROM django_taskq_finishedtask WHERE id = %s", id)

    return str(wait_until(finished, what=f"{id} ends")[0][0])


def banners(worker: TaskWorker) -> int:
    return worker.output.count("Ctrl+C to stop")


def test_changed_code_runs_in_the_same_process_id_after_an_error_was_waited_out(
    start: Starter, shop: Shop
) -> None:
    # DEBUG is on: no flag is needed.
    worker = start(settings="shop_settings", children=2)
    assert result_of(shop.ship()) == '"first"'
    before = set(worker.children())

    shop.write("return 'second'")
    wait_until(lambda: banners(worker) == 2, what="it starts anew")
    assert result_of(shop.ship()) == '"second"'
    assert "tasks.py has changed: starting anew." in worker.output
    assert before.isdisjoint(worker.children())
    assert not any(map(is_alive, before))

    shop.write("return 'third' if")
    worker.wait_for("The worker waits until that is put right.")
    assert "SyntaxError" in worker.output
    waiting = shop.ship()
    assert worker.process.poll() is None

    shop.write("return 'fourth'")
    assert result_of(waiting) == '"fourth"'
    assert banners(worker) == 3

    worker.send(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert sql("SELECT count(*) FROM django_taskq_worker") == [(0,)]


def test_a_running_task_gets_a_short_grace_and_runs_again_if_that_is_not_enough(
    start: Starter, shop: Shop
) -> None:
    worker = start("--reload", settings="shop_settings", children=2)
    long, short = shop.ship(30), shop.ship(2.0)
    wait_until(
        lambda: sql("SELECT count(*) FROM django_taskq_livetask WHERE status = 'RUNNING'") == [(2,)]
    )
    shop.write("return 'again' + str(seconds)")
    assert result_of(short) == '"first"'
    wait_until(lambda: banners(worker) == 2, what="it starts anew")
    wait_until(
        lambda: (
            sql("SELECT attempts, crashes FROM django_taskq_livetask WHERE id = %s", long)
            == [(1, 0)]
        ),
        what="what was cut off runs again, and no attempt or crash is counted",
    )


def test_a_stop_while_the_code_is_broken_still_stops(start: Starter, shop: Shop) -> None:
    worker = start(settings="shop_settings", children=1)
    shop.write("return (")
    worker.wait_for("The worker waits until that is put right.")
    worker.send(signal.SIGINT)
    assert worker.wait(20) == 0


@pytest.mark.parametrize("arguments", [("--no-reload",), ("--burst",), ("--max-tasks", "2")])
def test_it_can_be_switched_off_and_is_off_where_the_worker_ends_by_itself(
    start: Starter, shop: Shop, arguments: tuple[str, ...]
) -> None:
    running = shop.ship(3)
    worker = start(*arguments, settings="shop_settings", children=1, ready=False)
    worker.wait_for("Ctrl+C" if "--burst" not in arguments else "until nothing is due")
    wait_until(lambda: sql("SELECT 1 FROM django_taskq_livetask WHERE status = 'RUNNING'"))
    shop.write("return 'changed'")
    assert result_of(running) == '"first"'
    assert "has changed" not in worker.output


def test_a_change_in_a_module_that_the_error_is_in_is_noticed_too(
    start: Starter, shop: Shop, tmp_path: Path
) -> None:
    worker = start(settings="shop_settings", children=1)
    (tmp_path / "shop" / "prices.py").write_text("PRICE = = 1\n")
    shop.write("from shop.prices import PRICE; return PRICE")
    result = shop.ship()
    # The function body imports it: that is no error of the project.
    wait_until(lambda: banners(worker) == 2, what="it starts anew")
    wait_until(lambda: sql("SELECT 1 FROM django_taskq_finishedtask WHERE id = %s", result))
    (tmp_path / "shop" / "tasks.py").write_text(
        "from shop.prices import PRICE\nfrom django_taskq import task\n"
        "@task(name='shop.ship')\ndef ship(seconds=0):\n    return PRICE\n"
    )
    worker.wait_for("The worker waits until that is put right.")
    (tmp_path / "shop" / "prices.py").write_text("PRICE = 'nothing'\n")
    assert result_of(shop.ship()) == '"nothing"'
