"""The ledger and the history: tables beside ours that note what runs and how rows change.

The ledger is written by tasks on a connection of their own, in autocommit: what they have written
stays, whatever becomes of them. The history is written by triggers, in the transaction that changes
a row: what was rolled back is not in it. Both take their numbers from one sequence, so that there
is one order. The number of a change is drawn after its row was locked: changes of one task are in
the order in which they took place.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import psycopg

from tests.chaos.evidence import Change, Death, Evidence, Finished, Note, Pause, Watch

# `chaos.actor` is set by the workers' connections (see actors.py): who writes.
SET_UP = """
CREATE SEQUENCE chaos_seq;
CREATE TABLE chaos_ledger (
  seq bigint PRIMARY KEY DEFAULT nextval('chaos_seq'),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  task uuid NOT NULL, attempt int NOT NULL, claim uuid NOT NULL, actor uuid NOT NULL,
  pid int NOT NULL, what text NOT NULL);
CREATE TABLE chaos_event (
  seq bigint PRIMARY KEY DEFAULT nextval('chaos_seq'),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  kind text NOT NULL, actor uuid, worker text NOT NULL DEFAULT '', detail text NOT NULL DEFAULT '');
CREATE TABLE chaos_history (
  seq bigint PRIMARY KEY DEFAULT nextval('chaos_seq'),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
  task uuid NOT NULL, old text, new text, old_claim uuid, claim uuid,
  old_worker uuid, worker uuid, writer text NOT NULL);
CREATE FUNCTION chaos_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO chaos_history (task, new, claim, worker, writer)
    VALUES (NEW.id, NEW.status, NEW.claim, NEW.worker_id,
            coalesce(current_setting('chaos.actor', true), ''));
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO chaos_history (task, old, old_claim, old_worker, writer)
    VALUES (OLD.id, OLD.status, OLD.claim, OLD.worker_id,
            coalesce(current_setting('chaos.actor', true), ''));
  ELSIF (OLD.status, OLD.claim, OLD.worker_id)
        IS DISTINCT FROM (NEW.status, NEW.claim, NEW.worker_id) OR TG_ARGV[0] = 'finished' THEN
    INSERT INTO chaos_history (task, old, new, old_claim, claim, old_worker, worker, writer)
    VALUES (NEW.id, OLD.status, NEW.status, OLD.claim, NEW.claim, OLD.worker_id, NEW.worker_id,
            coalesce(current_setting('chaos.actor', true), ''));
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER chaos_record AFTER INSERT OR UPDATE OR DELETE ON django_taskq_livetask
  FOR EACH ROW EXECUTE FUNCTION chaos_record('live');
CREATE TRIGGER chaos_record AFTER INSERT OR UPDATE OR DELETE ON django_taskq_finishedtask
  FOR EACH ROW EXECUTE FUNCTION chaos_record('finished');
"""

NOTE = """
INSERT INTO chaos_ledger (task, attempt, claim, actor, pid, what) VALUES (%s, %s, %s, %s, %s, %s)
"""

SAY = """
INSERT INTO chaos_event (kind, actor, worker, detail) VALUES (%s, %s, %s, %s)
"""


def set_up(connection: psycopg.Connection[Any]) -> None:
    """Make the tables and triggers in a migrated database."""
    connection.execute(SET_UP)


def read(connection: psycopg.Connection[Any]) -> Evidence:
    """Read what a run has left behind; what was enqueued and expected the rig adds itself."""
    evidence = Evidence()
    evidence.notes = [
        Note(*row)
        for row in connection.execute(
            "SELECT seq, task::text, claim::text, actor::text, what FROM chaos_ledger ORDER BY seq"
        )
    ]
    evidence.changes = list(
        joined(
            Change(*row)
            for row in connection.execute(
                "SELECT seq, extract(epoch FROM at)::float8, xact::text::bigint, task::text, "
                "old, new, old_claim::text, claim::text, old_worker::text, worker::text, writer "
                "FROM chaos_history ORDER BY seq"
            )
        )
    )
    evidence.live = dict(
        connection.execute("SELECT id::text, status FROM django_taskq_livetask").fetchall()
    )
    for row in connection.execute(
        "SELECT id::text, status, claim::text, attempts, crashes, return_value::text "
        "FROM django_taskq_finishedtask"
    ):
        id, status, claim, attempts, crashes, value = row
        evidence.finished[id] = Finished(status, claim, attempts, crashes, _said(value))
    _read_events(connection, evidence)
    return evidence


def _said(value: str | None) -> str | None:
    """Return the claim that a task has returned."""
    said = json.loads(value) if value is not None else None
    return said.get("claim") if isinstance(said, dict) else None


def joined(changes: Iterable[Change]) -> Iterable[Change]:
    """Make one change of the two halves of a move between the tables."""
    waiting: dict[tuple[int, str], Change] = {}
    moved: list[Change] = []
    for change in changes:
        key = change.xact, change.task
        first = waiting.get(key)
        if first is not None and first.new is None and change.old is None:
            del waiting[key]
            moved.append(
                change._replace(
                    old=first.old, old_claim=first.old_claim, old_worker=first.old_worker
                )
            )
        elif change.new is None:
            waiting[key] = change
        else:
            moved.append(change)
    # A row that was deleted and inserted nowhere is a change of its own, which no arrow allows.
    return sorted([*moved, *waiting.values()])


# So long its supervisor has to settle the death of a child.
_NOTED_WITHIN = 1.0


def _read_events(connection: psycopg.Connection[Any], evidence: Evidence) -> None:
    """Take in deaths and suspensions; those of a whole worker are those of all its processes."""
    members: dict[str, list[str]] = defaultdict(list)
    watching: dict[str, float] = {}
    rows = connection.execute(
        "SELECT seq, extract(epoch FROM at)::float8, kind, actor::text, worker "
        "FROM chaos_event ORDER BY seq"
    ).fetchall()
    for _, _, kind, actor, worker in rows:
        if kind == "birth":
            members[worker].append(actor)
    for seq, at, kind, actor, worker in rows:
        actors = [actor] if actor else members[worker]
        for one in actors:
            if kind == "death":
                evidence.deaths.setdefault(one, Death(seq, at))
                if not actor:
                    # Of a child that had died just before, nobody was left to take note.
                    first = evidence.deaths[one]
                    if at - first.at < _NOTED_WITHIN:
                        evidence.deaths[one] = Death(first.seq, at, of_a_tree=True)
            elif kind == "stop":
                evidence.pauses.setdefault(one, []).append(Pause(seq, None))
            elif kind == "cont" and evidence.pauses.get(one):
                evidence.pauses[one][-1] = evidence.pauses[one][-1]._replace(until=seq)
        if kind == "watch" or (kind == "cont" and not actor):
            watching[worker] = at
        elif kind in ("death", "stop") and not actor and worker in watching:
            evidence.watches.append(Watch(watching.pop(worker), at))
    evidence.watches += [Watch(since) for since in watching.values()]
