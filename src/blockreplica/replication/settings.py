"""What a caller may want of a sync."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import UsageError
from ..stores import Replica


class HookSettings(msgspec.Struct, frozen=True):
    """The guest agent's socket, or commands for a shell; nothing of them: no hooks."""

    agent: Path | None = None
    pre_cut: str = ""
    post_cut: str = ""

    def __post_init__(self) -> None:
        if self.agent is not None and (self.pre_cut or self.post_cut):
            raise UsageError("the guest agent freezes and thaws by itself: wanted it, or commands, not both")

    @property
    def by(self) -> str:
        """What brings a guest to rest, in a sentence."""
        return "the guest agent" if self.agent is not None else "commands around it"


NO_HOOKS = HookSettings()


class Settings(msgspec.Struct, frozen=True):
    """What a caller may want of a sync. `resync` compares whatever the logs say; `deep` reads both sides.

    `retire` takes out the points that are not to be kept any longer, under the replica's lock, and returns what to say
    of it; without it the newest `keep` stay. `block_size`: that of the checksums from then on.
    """

    resync: bool = False
    deep: bool = False
    keep: int = 24
    seed: Path | None = None
    retire: Callable[[Replica], list[str]] | None = None
    hooks: HookSettings = NO_HOOKS
    block_size: int | None = None
