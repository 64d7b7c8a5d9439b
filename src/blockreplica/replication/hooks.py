"""What stands around the cut that becomes a point (rule 10), so that the point is application-consistent.

What fails here never fails a sync: the point is crash-consistent then, and says why.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from ..errors import BlockReplicaError

CONSISTENT = "application-consistent"


class Hooks(Protocol):
    """Whoever brings a guest to rest."""

    def freeze(self) -> None:
        """Bring it to rest; BlockReplicaError when it is not."""

    def thaw(self) -> str:
        """Let it go on; returns why it was not at rest all the time, if it was not."""

    def guarded(self) -> AbstractContextManager[None]:
        """Have somebody thaw it who outlives us, while the block lasts."""


class Rest(msgspec.Struct):
    """How the latest cut was made: the kind of point that it makes, and why it is not a better one."""

    hooks: Hooks | None
    kind: str = "crash-consistent"
    why: str = ""

    def around(self, cut: Callable[[], Any]) -> Any:
        """Make a cut while the guest is at rest."""
        if self.hooks is None:
            return cut()
        self.kind, failures = "crash-consistent", list[str]()
        with self.hooks.guarded():
            try:
                failures += failure(self.hooks.freeze)
                made = cut()
            finally:
                failures += failure(self.hooks.thaw)
        if not failures:
            self.kind = CONSISTENT
        self.why = "; ".join(failures)
        return made


def failure(step: Callable[[], str | None]) -> list[str]:
    """Why a step was not done, if it was not."""
    try:
        said = step()
    except BlockReplicaError as error:
        said = str(error)
    return [said] if said else []
