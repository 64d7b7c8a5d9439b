"""How the disks of a running QEMU are named: `qmp:/run/vm.qmp?node=disk0,disk1&scratch=/var/tmp`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import msgspec

from ...errors import UsageError

SCHEME = "qmp:"


class Address(msgspec.Struct, frozen=True):
    """Disks behind one QMP socket. `scratch` is where old content goes while a sync reads, `nbd` the socket of an NBD
    server that QEMU runs already; None: what `Machine` chooses."""

    socket: Path
    nodes: tuple[str, ...]
    scratch: Path | None = None
    nbd: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `qmp:SOCKET?node=NAME,…[&scratch=DIR][&nbd=SOCKET]`; UsageError for anything else."""
        path, _, query = text.removeprefix(SCHEME).partition("?")
        try:
            fields = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError as error:
            raise UsageError(f"{text}: {error}") from None
        nodes = tuple(name for key, value in fields if key == "node" for name in value.split(",") if name)
        rest = {key: value for key, value in fields if key != "node"}
        unknown = set(rest) - {"scratch", "nbd"}
        if not path or unknown or not nodes:
            hint = "" if nodes else "; a node is a disk's node-name, as query-block names it"
            raise UsageError(f"{text}: wanted qmp:SOCKET?node=NAME[,NAME…][&scratch=DIR][&nbd=SOCKET]{hint}")
        if len(set(nodes)) != len(nodes):
            raise UsageError(f"{text}: names a node twice")
        named = {key: Path(value).resolve() for key, value in rest.items()}
        return cls(Path(path).resolve(), nodes, named.get("scratch"), named.get("nbd"))

    def each(self) -> list[Address]:
        """An address for every disk."""
        return [msgspec.structs.replace(self, nodes=(node,)) for node in self.nodes]

    @classmethod
    def joined(cls, addresses: Sequence[Address]) -> Address:
        """One address for disks of one machine; UsageError when they are of several."""
        first = addresses[0]
        if any(msgspec.structs.replace(other, nodes=first.nodes) != first for other in addresses):
            raise UsageError("disks of several QEMUs can't be cut at one instant: protect each machine by itself")
        return msgspec.structs.replace(first, nodes=tuple(node for each in addresses for node in each.nodes))

    def __str__(self) -> str:
        fields = [("node", ",".join(self.nodes))]
        fields += [(key, str(value)) for key, value in (("scratch", self.scratch), ("nbd", self.nbd)) if value]
        return f"{SCHEME}{self.socket}?{urlencode(fields, safe='/,')}"
