"""How long work tells how far it is: the library calls, a face shows."""

from __future__ import annotations


class Progress:
    """Hears of the work and does nothing with it; faces override. All amounts in bytes."""

    def start(self, what: str, total: int) -> None:
        """A stage named `what` begins; `total` bytes are to be gone through (0: not known)."""

    def advance(self, count: int) -> None:
        """`count` more bytes of the stage are done."""

    def note(self, text: str) -> None:
        """Something a person should know, in one sentence."""


#: Tells nobody.
SILENT = Progress()
