"""Moving changes: initial replication, delta, resynchronization, and the decision which of them is needed."""

from .result import SyncResult
from .run import Settings, sync

__all__ = ["Settings", "SyncResult", "sync"]
