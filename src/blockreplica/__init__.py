"""blockreplica: block-level replication of virtual disk images.

import blockreplica as br
with br.track("vm.img") as image:                  # every write goes to the image and to its change log
    image.pwrite(b"data", 0)
vm = br.protect("vm.img", "/replicas", name="vm")  # relationship and initial replication
point = vm.sync()                                  # one delta; a resync if it must; says what it did
vm.replica.recover(point.point, "restored.img")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .manifest import PointRecord
    from .progress import Progress
    from .protection import Relationship, Status
    from .recovery.repair import RepairReport
    from .recovery.retention import Decision, Policy
    from .recovery.serve import ServedPoint
    from .recovery.verify import Scope, VerifyReport
    from .recovery.view import ReplicaView
    from .replication import SyncResult
    from .service.registry import (
        protect,
        relationship,
        relationships,
        replica,
        set_ctime,
        set_log,
        set_policy,
        unprotect,
    )
    from .tracking import Cut, TrackedImage, track
    from .tracking.export import Export, export

__version__ = "0.1.0"
__all__ = [
    "Cut", "Decision", "Export", "PointRecord", "Policy", "Progress", "Relationship", "RepairReport", "ReplicaView",
    "Scope", "ServedPoint", "Status", "SyncResult", "TrackedImage", "VerifyReport", "export", "protect", "relationship",
    "relationships", "replica", "set_ctime", "set_log", "set_policy", "track", "unprotect",
]  # fmt: skip

_HOMES = {
    "Cut": "tracking", "Export": "tracking.export", "export": "tracking.export",
    "TrackedImage": "tracking", "track": "tracking", "PointRecord": "manifest",
    "Progress": "progress", "Relationship": "protection", "Status": "protection", "SyncResult": "replication",
    "ServedPoint": "recovery.serve", "VerifyReport": "recovery.verify", "protect": "service.registry",
    "relationship": "service.registry", "replica": "service.registry", "ReplicaView": "recovery.view",
    "relationships": "service.registry", "set_ctime": "service.registry", "set_log": "service.registry",
    "set_policy": "service.registry",
    "RepairReport": "recovery.repair", "Scope": "recovery.verify",
    "Decision": "recovery.retention", "Policy": "recovery.retention", "unprotect": "service.registry",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that `import blockreplica` costs nothing at a start."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
