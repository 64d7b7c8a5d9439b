"""Moving changes: initial replication, delta, resynchronization, and the decision which of them is needed."""

from .result import SyncResult
from .run import Settings, sync
from .source import Group, Source
from .tracked import TrackedGroup

__all__ = ["Group", "Settings", "Source", "SyncResult", "TrackedGroup", "sync"]
