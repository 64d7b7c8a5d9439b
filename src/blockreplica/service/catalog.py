"""The catalog of relationships: SQLite under the XDG state folder, one row each.

It is a convenience of this host, never the truth about a replica: what a replica holds and how far it is stands in
the store.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from ..errors import NotFoundError, RefusedError, StateError, translated
from ..places import state_folder
from ..protection import Definition
from ..recovery.retention import Policy
from ..replication import HookSettings
from ..tracking.types import ctime_rule

VERSION = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS relationship (
    name TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, store TEXT NOT NULL, images TEXT NOT NULL,
    keep INTEGER NOT NULL, seed TEXT, digest TEXT NOT NULL
) STRICT
"""
_SINCE_2 = "ALTER TABLE relationship ADD COLUMN policy TEXT"
#: What came later stands in one JSON object, so that the next setting needs no other schema.
_SINCE_3 = "ALTER TABLE relationship ADD COLUMN settings TEXT NOT NULL DEFAULT '{}'"


class Catalog:
    """The relationships that this host knows."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or state_folder()) / "catalog.sqlite"

    def add(self, definition: Definition) -> None:
        """Remember a relationship; RefusedError when the name is taken or an image goes to that store already."""
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            for other in self._all(database):
                if other.name == definition.name:
                    raise RefusedError(f"relationship {other.name!r}: exists already; choose another --name")
                both = set(other.images) & set(definition.images)
                if both and other.store == definition.store:
                    raise RefusedError(f"{min(both)}: is protected already, as {other.name!r}, to that store")
            database.execute("INSERT INTO relationship VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(definition))

    def update(self, definition: Definition) -> None:
        """Replace a relationship's row."""
        with self._connected() as database:
            database.execute("REPLACE INTO relationship VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", _row(definition))

    def remove(self, name: str) -> None:
        """Forget a relationship."""
        with self._connected() as database:
            database.execute("DELETE FROM relationship WHERE name = ?", (name,))

    def get(self, name: str) -> Definition:
        """The relationship of that name; NotFoundError when there is none."""
        known = self.all()
        for definition in known:
            if definition.name == name:
                return definition
        names = ", ".join(definition.name for definition in known) or "none"
        raise NotFoundError(f"relationship {name!r}: there is none; {self.path.parent} knows: {names}")

    def all(self) -> list[Definition]:
        """Every relationship, by name."""
        if not self.path.exists():
            return []
        with self._connected() as database:
            return self._all(database)

    def _all(self, database: sqlite3.Connection) -> list[Definition]:
        return [_definition(row) for row in database.execute("SELECT * FROM relationship ORDER BY name")]

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with translated(self.path.parent, "creating the state folder"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
            try:
                self._prepare(database)
                with database:
                    yield database
            finally:
                database.close()
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise StateError(f"{self.path}: the catalog can't be used: {error}; the replicas are not touched by this: "
                             "their points are read with --store; restore it, or move the file away and "
                             "protect again") from error  # fmt: skip

    def _prepare(self, database: sqlite3.Connection) -> None:
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise StateError.at(self.path, 0, "catalog version", wanted=f"at most {VERSION}", got=version,
                                hint="a newer blockreplica wrote it: use that one")  # fmt: skip
        if version < VERSION:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("BEGIN IMMEDIATE")
            found = database.execute("PRAGMA user_version").fetchone()[0]  # somebody else may have been faster
            database.execute(_SCHEMA)
            for since, change in ((2, _SINCE_2), (3, _SINCE_3)):
                if found < since:
                    database.execute(change)
            database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("COMMIT")


def _row(definition: Definition) -> tuple[str | int | None, ...]:
    images = json.dumps([str(path) for path in definition.images])
    seed = str(definition.seed) if definition.seed else None
    row = definition.name, str(definition.id), str(definition.store), images, definition.keep, seed
    policy = json.dumps(msgspec.structs.asdict(definition.policy)) if definition.policy else None
    settings = json.dumps(_settings(definition))
    return *row, _digest(row, policy, settings), policy, settings


def _settings(definition: Definition) -> dict[str, str]:
    """What differs from what is usual."""
    hooks = definition.hooks
    found = {
        "tracking_dir": str(definition.tracking_dir or ""), "guest_agent": str(hooks.agent or ""),
        "pre_cut": hooks.pre_cut, "post_cut": hooks.post_cut, "log": definition.log.removeprefix("always"),
        "ctime": ctime_rule(definition.ignore_ctime) or "",
    }  # fmt: skip
    return {key: value for key, value in found.items() if value}


def _definition(row: tuple[Any, ...]) -> Definition:
    name, identity, store, images, keep, seed, digest, policy, text = row
    # SQLite has no checksums; a flipped bit in `keep` would prune good points
    if digest != _digest(row[:6], policy, text):
        raise ValueError(f"the row of {name!r} does not match its digest")
    settings = json.loads(text)
    return Definition(
        id=UUID(identity), name=name, images=tuple(map(Path, json.loads(images))), store=Path(store), keep=keep,
        seed=Path(seed) if seed else None, policy=Policy.parse(json.loads(policy)) if policy else None,
        tracking_dir=Path(settings["tracking_dir"]) if "tracking_dir" in settings else None,
        hooks=HookSettings(
            Path(settings["guest_agent"]) if "guest_agent" in settings else None,
            settings.get("pre_cut", ""), settings.get("post_cut", ""),
        ),
        log="transit" if settings.get("log") == "transit" else "always",
        ignore_ctime=settings["ctime"] == "ignore" if "ctime" in settings else None,
    )  # fmt: skip


def _digest(row: tuple[Any, ...], policy: str | None, settings: str) -> str:
    """As the version had it that knew no more than what is there."""
    row = (*row, *([policy] if policy else []), *([settings] if settings != "{}" else []))
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()
