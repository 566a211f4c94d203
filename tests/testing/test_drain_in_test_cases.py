"""drain() in Django's own classes of tests."""

from __future__ import annotations

from asgiref.sync import sync_to_async
from django.db import transaction
from django.db.transaction import TransactionManagementError
from django.test import TestCase, TransactionTestCase

from django_taskq.models import LiveTask, Worker
from django_taskq.testing import drain
from tests.testing import tasks


class DrainInATestCase(TestCase):
    """With unittest's means."""

    def test_an_error_that_the_task_caught_outside_a_savepoint_is_explained(self) -> None:
        tasks.write_twice_and_go_on.enqueue("once", careful=False)
        with self.assertRaisesRegex(TransactionManagementError, "TransactionTestCase"):
            drain()

    def test_enqueue_gives_captureOnCommitCallbacks_one_callback(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            tasks.note.enqueue(1)
        self.assertEqual(len(callbacks), 1)
        self.assertEqual(drain().counts, {"completed": 1})

    async def test_a_coroutine_test_can_drain(self) -> None:
        await tasks.note_async.aenqueue("async")
        drained = await sync_to_async(drain)()
        self.assertEqual(drained.counts, {"completed": 1})


class DrainInATransactionTestCase(TransactionTestCase):
    """Without the transaction around the test."""

    def test_an_error_that_the_task_caught_is_its_own_affair(self) -> None:
        tasks.write_twice_and_go_on.enqueue("once", careful=False)
        assert drain(raise_errors=True).results[0].return_value == "there already"

    def test_tasks_of_an_open_transaction_are_run_in_it(self) -> None:
        with transaction.atomic():
            tasks.note.enqueue(1)
            self.assertEqual(drain().counts, {"completed": 1})
            transaction.set_rollback(True)
        self.assertEqual(Worker.objects.count() + LiveTask.objects.count(), 0)
