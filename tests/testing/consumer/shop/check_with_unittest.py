"""The helpers in Django's classes, run by Django's own runner."""

from __future__ import annotations

import os
import urllib.request

from django.contrib.auth.models import Group
from django.core import mail
from django.db import connection
from django.test import LiveServerTestCase, TestCase, TransactionTestCase

from django_taskq import get_result
from django_taskq.testing import assert_enqueued, capture_enqueued, drain, run_inline, worker
from shop.tasks import add_group, succeed_at


class InATransaction(TestCase):
    def test_draining(self) -> None:
        with capture_enqueued() as inside:
            self.client.get("/enqueue/mammals/")
        inside.assert_enqueued(add_group, "mammals", times=1)
        self.assertEqual(drain(raise_errors=True).counts, {"completed": 1})
        self.assertEqual(Group.objects.get().name, "mammals")
        self.assertEqual(len(mail.outbox), 1)

    @run_inline()
    def test_running_inline(self) -> None:
        self.assertEqual(succeed_at.enqueue(3).return_value, 3)

    def test_a_worker_would_see_nothing(self) -> None:
        fix = "TransactionTestCase or LiveServerTestCase"
        with self.assertRaisesRegex(RuntimeError, fix), worker():
            self.fail("it has started")


class AnotherInATransaction(TestCase):
    def test_draining(self) -> None:
        succeed_at.enqueue(3)
        assert_enqueued(succeed_at, 3)
        self.assertEqual(drain().counts, {"retrying": 2, "completed": 1})


class WithAWorker(TransactionTestCase):
    def test_a_worker_runs_tasks_in_the_test_database(self) -> None:
        with worker(settings={"MEDIA_ROOT": "/elsewhere"}):
            value = add_group.enqueue("birds").wait(timeout=60)
        self.assertEqual(value["database"], connection.settings_dict["NAME"])
        self.assertTrue(value["database"].startswith("test_"))
        self.assertEqual((value["debug"], value["media"]), (False, "/elsewhere"))
        self.assertEqual(value["mails"], 1)
        self.assertEqual(mail.outbox, [])
        self.assertNotEqual(value["pid"], os.getpid())
        self.assertEqual(Group.objects.get().name, "birds")

    def test_a_burst(self) -> None:
        results = [succeed_at.enqueue(attempt) for attempt in (1, 2, 3)]
        with worker(burst=True) as running:
            self.assertEqual(running.process.wait(60), 0)
        for result in results:
            result.refresh()
        self.assertEqual([result.return_value for result in results], [1, 2, 3])


class BehindALiveServer(LiveServerTestCase):
    def test_a_page_enqueues_and_a_worker_runs_it(self) -> None:
        with worker(), urllib.request.urlopen(f"{self.live_server_url}/enqueue/fish/") as answer:
            result = get_result(answer.read().decode())
            self.assertEqual(result.wait(timeout=60)["mails"], 1)
