"""The disks of a running QEMU, by `qmp:SOCKET?node=NAME,…`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from ..errors import BlockReplicaError, NotFoundError
from ..files import Files
from ..places import consistent_folder
from ..tracking import NotesFile
from .base import DiskState

if TYPE_CHECKING:
    from ..replication import Group
    from ..tracking.qemu import Address, Machine


class Machines:
    """Addresses are `qmp:` words with one node each."""

    def addresses(self, word: str) -> list[Path]:
        """One for each node."""
        return [Path(str(each)) for each in _parse(word).each()]

    def name(self, address: Path) -> str:
        """The node's name."""
        return _parse(str(address)).nodes[0]

    def local(self, address: Path) -> Path | None:
        """QEMU has the disk, wherever that is."""
        return None

    def weigh(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> int:
        """What the images take up, as QEMU says."""
        with closing(_machine(addresses, relationship)) as machine:
            return sum(disk.allocated for disk in machine.disks)

    def open(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> Group:
        """A connection to QEMU."""
        from ..replication.machine import MachineGroup

        return MachineGroup(_machine(addresses, relationship), _notes(relationship, files))

    def states(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> list[DiskState]:
        """What QEMU says of the bitmaps."""
        try:
            with closing(_machine(addresses, relationship)) as machine:
                states = [machine.state(index) for index in range(len(addresses))]
                return [DiskState(disk.size, *state) for disk, state in zip(machine.disks, states, strict=True)]
        except BlockReplicaError as error:
            found = "missing" if isinstance(error, NotFoundError) else "unreadable"
            return [DiskState(0, found) for _ in addresses]

    def forget(self, addresses: Sequence[Path], relationship: UUID, files: Files) -> None:
        """Take the bitmaps out of QEMU; one that does not run has lost them, or will be told to by its user."""
        _notes(relationship, files).change(lambda _: [])
        try:
            with closing(_machine(addresses, relationship)) as machine:
                machine.forget()
        except NotFoundError:
            return


def _notes(relationship: UUID, files: Files) -> NotesFile:
    return NotesFile(consistent_folder() / str(relationship), files)


def _parse(word: str) -> Address:
    from ..tracking.qemu import Address

    return Address.parse(word)


def _machine(addresses: Sequence[Path], relationship: UUID) -> Machine:
    from ..tracking.qemu import Address, Machine

    return Machine(Address.joined([_parse(str(address)) for address in addresses]), relationship)
