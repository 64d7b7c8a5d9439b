"""Relationships by name: made, found, ended. Glue between the catalog and what a relationship can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import NotFoundError, RefusedError
from ..files import FILES
from ..images.names import checked_format
from ..primaries import kind_of
from ..progress import SILENT, Progress
from ..protection import DEFAULT_BLOCK_SIZE, DEFAULT_KEEP, Definition, Relationship, check, define, new_replica
from ..recovery.retention import Policy
from ..recovery.view import ReplicaView
from ..replication import HookSettings
from ..stores import DirectoryStore
from ..tracking import LogMode
from .catalog import Catalog

PathLike = str | os.PathLike[str]


def protect(
    images: PathLike | Sequence[PathLike], store: PathLike, *, name: str, block_size: int = DEFAULT_BLOCK_SIZE,
    keep: int = DEFAULT_KEEP, policy: Policy | None = None, seed: PathLike | None = None,
    tracking_dir: PathLike | None = None, log: LogMode = "always", format: str | None = None,
    guest_agent: PathLike | None = None, pre_cut: str = "", post_cut: str = "", ignore_ctime: bool | None = None,
    progress: Progress = SILENT,
) -> Relationship:  # fmt: skip
    """Replicate images into a store from now on: checks, then the initial replication (`.last` tells of it).

    `images` are paths of what QEMU reads (`format` says which, where name and content differ), or words as
    `qmp:SOCKET?node=NAME,…` for the disks of a running QEMU. All are cut together. Interrupted, the same call goes on
    where it was. `tracking_dir`: where their trackers keep logs and tracking files, if not beside them; `log`: when
    they keep a log, see `set_log`; `ignore_ctime`: see `set_ctime`. `guest_agent`, a socket of qemu-ga, or the shell
    commands `pre_cut` and `post_cut` make application-consistent points. RefusedError when the name or the images are
    taken, the store is not one, or an image lies in it; NoSpaceError when it has too little room.
    """
    listed = [images] if isinstance(images, str | os.PathLike) else list(images)
    if format is not None:
        listed = [f"{checked_format(format)}:{os.fspath(image)}" for image in listed]
    hooks = HookSettings(Path(guest_agent).resolve() if guest_agent is not None else None, pre_cut, post_cut)
    definition = define(
        listed, store, name=name, keep=keep, seed=seed, policy=policy, tracking_dir=tracking_dir, hooks=hooks, log=log,
        ignore_ctime=ignore_ctime,
    )  # fmt: skip
    new_replica(definition, block_size)  # what is wrong with it is said before anything is made
    relationship = Relationship(_begin(definition, block_size, progress))
    relationship.sync(progress=progress)
    Catalog().update(msgspec.structs.replace(relationship.definition, seed=None))
    return relationship


def _begin(definition: Definition, block_size: int, progress: Progress) -> Definition:
    """The definition in the catalog, with its replica: the one that an interrupted call left, or this new one."""
    catalog = Catalog()
    held = _interrupted(catalog, definition)
    if held is None:
        check(definition, progress)
        catalog.add(definition)
    try:
        _create_replica(held or definition, block_size)
    except BaseException:
        if held is None:  # one that was there before may have points, in a store that is only out of reach
            catalog.remove(definition.name)
        raise
    return held or definition


def _create_replica(definition: Definition, block_size: int) -> None:
    store = DirectoryStore.create(definition.store)
    mine = str(definition.id)
    if definition.name not in store.names() or store.replica(definition.name).record.relationship != mine:
        store.create_replica(new_replica(definition, block_size))


def relationship(name: str) -> Relationship:
    """The relationship of that name; NotFoundError when there is none."""
    return Relationship(Catalog().get(name))


def replica(store: PathLike, name: str) -> ReplicaView:
    """A replica by its store's folder alone: of another host, of a catalog that was lost, of what `unprotect` left."""
    return ReplicaView(DirectoryStore(Path(store)).replica(name), FILES)


def relationships() -> list[Relationship]:
    """All that this host knows, by name."""
    return [Relationship(definition) for definition in Catalog().all()]


def set_policy(name: str, policy: Policy) -> Relationship:
    """Change which points of a relationship are kept, from the next sync or prune on."""
    catalog = Catalog()
    definition = msgspec.structs.replace(catalog.get(name), policy=policy)
    catalog.update(definition)
    return Relationship(definition)


def set_log(name: str, mode: LogMode) -> Relationship:
    """Change when the trackers of a relationship's images keep a log, from the next sync on: "always", or in
    "transit", while a sync sends what is dirty. An image of several relationships always has one."""
    catalog = Catalog()
    definition = msgspec.structs.replace(catalog.get(name), log=mode)
    kind_of(definition.images, definition.tracking_dir, mode)
    catalog.update(definition)
    return Relationship(definition)


def set_ctime(name: str, *, ignore: bool) -> Relationship:
    """Change, from the next sync on, what an image of a relationship is whose ctime alone changed while nothing tracked
    it: unchanged, or compared. Its tracking file keeps that, so it is so for all relationships of the image."""
    catalog = Catalog()
    definition = msgspec.structs.replace(catalog.get(name), ignore_ctime=ignore)
    kind_of(definition.images, definition.tracking_dir, ignore_ctime=ignore)
    catalog.update(definition)
    return Relationship(definition)


def unprotect(name: str, *, delete_replica: bool = False) -> None:
    """End a relationship; the replica and its points stay unless `delete_replica`."""
    catalog = Catalog()
    Relationship(catalog.get(name)).forget(delete_replica=delete_replica)
    catalog.remove(name)


def _interrupted(catalog: Catalog, wanted: Definition) -> Definition | None:
    """The same relationship, when an earlier call has begun it and made no point yet."""
    try:
        held = catalog.get(wanted.name)
    except NotFoundError:
        return None
    try:
        begun = DirectoryStore(held.store).replica(held.name).state().epoch > 0
    except (NotFoundError, RefusedError):
        begun = False
    if (held.images, held.store, held.tracking_dir) != (wanted.images, wanted.store, wanted.tracking_dir):
        way = "" if begun else f"it has no point: unprotect {held.name} --delete-replica, if it was a mistake; or "
        raise RefusedError(f"relationship {held.name!r}: exists already, for other images; {way}choose another --name")
    if begun:
        raise RefusedError(f"relationship {held.name!r}: is protected already, and has points; for the next one: "
                           f"blockreplica sync {held.name}")  # fmt: skip
    return held
