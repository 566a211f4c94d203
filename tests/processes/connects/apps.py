from __future__ import annotations

import random
import sys
import uuid

import psycopg
from django.apps import AppConfig
from django.db import connection

from django_taskq.ids import new_id


class ConnectsConfig(AppConfig):
    """Do at the start what forked processes must not share."""

    name = "tests.processes.connects"

    def ready(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
        # Not one of Django's: nobody can close it for the project.
        self.raw = psycopg.connect(**connection.get_connection_params())
        random.random()
        uuid.uuid1()
        new_id()
        sys.stdout.write("written-once ")
