"""Replica stores: where replicas live, and everything that touches their files."""

from .directory import DirectoryStore, Replica
from .point_reader import PointReader
from .session import Session

__all__ = ["DirectoryStore", "PointReader", "Replica", "Session"]
