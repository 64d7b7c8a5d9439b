"""A running QEMU, or qemu-storage-daemon, as the one that tracks its disks: dirty bitmaps, driven over QMP."""

from __future__ import annotations

from .address import Address
from .machine import Machine

__all__ = ["Address", "Machine"]
