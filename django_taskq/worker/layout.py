"""Where each thing stands in the memory that a worker's processes share.

A header, with the budget of the worker, and behind it a slot per child: its record. All that is
written under a lock is single words, so that a writer's death leaves nothing half done.
"""

from __future__ import annotations

ID_LENGTH = 36
# More than a feeder ever has in hand: its prefetch, what runs, and outcomes on their way.
RING = 2048

# In a slot, in 8-byte words. The mutex before them gets 128 bytes: the largest known
# pthread_mutex_t has 64.
EPOCH, CLAIMED, STARTED, IDLE, HUNGRY, READY, RETIRING = 16, 17, 18, 19, 20, 21, 22
RUNNING_SINCE, DEADLINE, TICKED_AT, MOVED_AT = 24, 25, 26, 27
# In bytes from here on. The token of the claim under way: a text of 36 bytes, or NULs.
TOKEN = 32 * 8
# The ring of the claimed ids, and that of the tokens under which they were claimed.
RING_AT = 40 * 8
CLAIMS_AT = RING_AT + RING * ID_LENGTH
# Behind the rings, for pools that run several tasks at once: a place per executor, which says what
# runs there (its id), since when, and when its time is over.
PLACES_AT = CLAIMS_AT + RING * ID_LENGTH
PLACES_AT += -PLACES_AT % 64
PLACE_SIZE, PLACE_ID = 64, 16

# In the header, whose mutex stands first, too: a word.
HEADER_SIZE = 4096
PERMITS = 16


def slot_size(places: int) -> int:
    """Return the bytes of a child's slot: whole pages."""
    size = PLACES_AT + places * PLACE_SIZE
    return size + -size % 4096
