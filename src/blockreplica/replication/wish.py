"""A block size that was asked for stands in the replica until checksums are of it: an interrupted resync forgets none.

It is noted before the movement begins, and taken out once the size is that. Whichever sync comes next goes on with it.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from ..errors import BlockReplicaError, DamageError, FormatError, UsageError
from ..progress import Progress
from ..stores import Replica
from ..units import format_size


def note_wish(replica: Replica, asked: int | None) -> int:
    """The size to go on to, 0 for none: what is `asked` for now, durable when this returns, else what was before."""
    try:
        noted = replica.marks().block_size
    except FormatError:  # two damaged records, of which nothing must be lost by writing them anew
        return asked or 0
    wished = noted if asked is None else asked
    if wished == replica.record.block_size:
        wished = 0
    if wished != noted:
        _note(replica, wished)
    return wished


def fulfil_wish(replica: Replica, wished: int, *, asked: bool, progress: Progress) -> list[str]:
    """Go on to that size; the newest point is whole and the caller holds the lock. Returns warnings.

    What hinders it is an error for whoever `asked` now; a wish that was remembered waits for the next sync, unless
    damage would only hinder it again.
    """
    if not wished:
        return []
    size = format_size(wished)
    if not asked:
        progress.note(f"going on to checksums of {size}, as a resync asked that was interrupted")
    try:
        replica.change_block_size(wished, progress=progress)
    except BlockReplicaError as error:
        lasting = isinstance(error, DamageError | UsageError)
        if lasting:
            with suppress(BlockReplicaError):
                _note(replica, 0)
        if asked:
            raise
        then = f"run `resync --deep --block-size {size}`" if lasting else "the next sync tries again"
        return [f"checksums are not of {size} yet, as a resync asked that was interrupted: {error}; {then}"]
    with suppress(BlockReplicaError):  # a wish for what is there already is none
        _note(replica, 0)
    return []


def _note(replica: Replica, wished: int) -> None:
    replica.mark(msgspec.structs.replace(replica.marks(), block_size=wished))
