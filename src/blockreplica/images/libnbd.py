"""libnbd through ctypes: its Python binding is tied to the one interpreter that a distribution builds it for."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from ..errors import RefusedError, StorageError

EXTENT_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_size_t, ctypes.POINTER(ctypes.c_int),
)  # fmt: skip


class ExtentCallback(ctypes.Structure):
    """nbd_extent_callback."""

    _fields_ = (("callback", EXTENT_CALLBACK), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p))


class Completion(ctypes.Structure):
    """nbd_completion_callback; left empty, there is none."""

    _fields_ = (("callback", ctypes.c_void_p), ("user_data", ctypes.c_void_p), ("free", ctypes.c_void_p))


_HANDLE, _NAME, _U32, _U64 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_uint64
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "nbd_create": (_HANDLE, ()),
    "nbd_close": (None, (_HANDLE,)),
    "nbd_get_error": (_NAME, ()),
    "nbd_get_errno": (ctypes.c_int, ()),
    "nbd_set_export_name": (ctypes.c_int, (_HANDLE, _NAME)),
    "nbd_add_meta_context": (ctypes.c_int, (_HANDLE, _NAME)),
    "nbd_can_meta_context": (ctypes.c_int, (_HANDLE, _NAME)),
    "nbd_set_pread_initialize": (ctypes.c_int, (_HANDLE, ctypes.c_bool)),
    "nbd_connect_unix": (ctypes.c_int, (_HANDLE, _NAME)),
    "nbd_get_size": (ctypes.c_int64, (_HANDLE,)),
    "nbd_block_status": (ctypes.c_int, (_HANDLE, _U64, _U64, ExtentCallback, _U32)),
    "nbd_poll": (ctypes.c_int, (_HANDLE, ctypes.c_int)),
    "nbd_shutdown": (ctypes.c_int, (_HANDLE, _U32)),
}  # fmt: skip

_NEVER_WAITING: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "nbd_aio_pread": (ctypes.c_int64, (_HANDLE, ctypes.c_void_p, ctypes.c_size_t, _U64, Completion, _U32)),
    "nbd_aio_command_completed": (ctypes.c_int, (_HANDLE, _U64)),
    "nbd_aio_peek_command_completed": (ctypes.c_int64, (_HANDLE,)),
}  # fmt: skip


@cache
def library() -> Any:
    """libnbd.so.0 with its prototypes; RefusedError that says how to get it."""
    return _loaded(ctypes.CDLL, _PROTOTYPES)


@cache
def at_once() -> Any:
    """What of it never waits, called with the GIL held: a read takes many such calls, and with each one the GIL would
    go to the thread that applies what was read, which gives it back when it likes."""
    return _loaded(ctypes.PyDLL, _NEVER_WAITING)


def _loaded(how: Callable[[str], Any], prototypes: dict[str, tuple[Any, tuple[Any, ...]]]) -> Any:
    try:
        lib = how("libnbd.so.0")
    except OSError as error:
        raise RefusedError(f"libnbd.so.0: {error}; reading from QEMU needs it: install libnbd0 (Debian), "
                           "libnbd (Fedora)") from None  # fmt: skip
    for name, (result, arguments) in prototypes.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def failure(where: str, doing: str) -> StorageError:
    """The typed error for libnbd's latest one in this thread."""
    lib = library()
    number, text = lib.nbd_get_errno(), (lib.nbd_get_error() or b"").decode(errors="replace")
    name = errno.errorcode.get(number, "")
    said = text or os.strerror(number)
    return StorageError(f"{where}: {doing} failed: {said}{f' ({name})' if name else ''}; "
                        "is QEMU still running? sync again")  # fmt: skip
