"""Moving changes: initial replication, delta, resynchronization, and the decision which of them is needed."""

from .result import SyncResult
from .run import sync
from .settings import NO_HOOKS, HookSettings, Settings
from .source import Group, Source
from .tracked import TrackedGroup

__all__ = ["NO_HOOKS", "Group", "HookSettings", "Settings", "Source", "SyncResult", "TrackedGroup", "sync"]
