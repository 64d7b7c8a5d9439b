"""The one seam to the file system: tracker state, logs and stores reach their files through it alone.

A test hands in another `Files`, which fails the n-th call, loses or reorders what was not synced, or tears a
write. `File` holds a real descriptor, so the C kernels read through `fileno()`; whatever *writes* goes
through a method here.

Durability is one helper, `Files.write_durably`: write, fsync, rename, fsync the folder. Nothing else replaces
a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from . import kernels
from .ahead import Aside
from .errors import FormatError, translated

if TYPE_CHECKING:
    from typing_extensions import Buffer


_AGAIN = 4 << 20
_FICLONE = 0x40049409
_NO_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)


class File:
    """An open file. Offsets and lengths in bytes; every OSError leaves as a typed error naming the path."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, for kernels that read and for locks; never to write through."""
        return self._fd

    @contextmanager
    def window(self, offset: int, length: int) -> Iterator[int]:
        """A descriptor from which kernels may read this extent, at its offset, while the block lasts."""
        yield self.fileno()

    def size(self) -> int:
        """Bytes in the file; for a block device, of the device."""
        with translated(self.path, "measuring"):
            return os.lseek(self._fd, 0, os.SEEK_END)

    def pread(self, length: int, offset: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the file ends."""
        buffer = bytearray(length)
        return bytes(memoryview(buffer)[: self.pread_into(buffer, offset)])

    def pread_into(self, buffer: Buffer, offset: int) -> int:
        """Fill `buffer` from `offset`; returns the bytes read, fewer than asked only where the file ends."""
        view, done = memoryview(buffer).cast("B"), 0
        with translated(self.path, f"reading at offset {offset}"):
            while done < len(view):
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        return done

    def pwrite(self, data: Buffer, offset: int) -> None:
        """Write all of `data` at `offset`."""
        view, done = memoryview(data).cast("B"), 0
        with translated(self.path, f"writing at offset {offset}"):
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)

    def read_extents(self, extents: Buffer, buffer: Buffer) -> None:
        """Batch read by `kernels.EXTENTS` rows (file offset, length, buffer offset); zeros past the end."""
        with translated(self.path, "reading"):
            kernels.read_extents(self._fd, extents, buffer)

    def write_extents(self, extents: Buffer, buffer: Buffer) -> None:
        """Batch write; rows as in `read_extents`."""
        with translated(self.path, "writing"):
            kernels.write_extents(self._fd, extents, buffer)

    def copy_from(
        self, source: File, offset: int, length: int, block_size: int, table: Buffer, *,
        seed: int, punch: bool, lazy: bool = False,
    ) -> int:  # fmt: skip
        """Copy an extent of `source` to the same offset here, building its checksum table on the way.

        See `kernels.copy_file`; returns the bytes written.
        """
        with source.window(offset, length) as fd, translated(self.path, f"copying {source.path} from offset {offset}"):
            how = {"punch": punch, "lazy": lazy}
            return kernels.copy_file(fd, self._fd, offset, length, block_size, table, seed=seed, **how)

    def clone_from(self, source: File) -> bool:
        """Become a copy of `source` that shares its blocks; False where the file system can't do that."""
        with translated(self.path, f"cloning {source.path}"):
            try:
                fcntl.ioctl(self._fd, _FICLONE, source.fileno())
            except OSError as error:
                if error.errno in _NO_CLONE:
                    return False
                raise
        return True

    def zero(self, offset: int, length: int) -> None:
        """Make the extent read as zeros, as a hole where the file system has holes; the size stays."""
        with translated(self.path, f"punching a hole at offset {offset}"):
            kernels.punch_hole(self._fd, offset, length)

    def truncate(self, size: int) -> None:
        """Grow (with a hole) or shrink the file to `size` bytes."""
        with translated(self.path, f"resizing to {size} bytes"):
            os.ftruncate(self._fd, size)

    def write_again(self) -> None:
        """Write all that the file reads as once more. After an fsync that failed, pages read as what was written, are
        not on the disk, and are no longer known to be missing there: only what is written again is made durable."""
        end = self.size()
        for at in range(0, end, _AGAIN):
            self.pwrite(self.pread(min(_AGAIN, end - at), at), at)

    def sync(self) -> None:
        """fdatasync. When it fails, nothing written since the last success counts as durable, for good."""
        with translated(self.path, "fsync"):
            os.fdatasync(self._fd)

    def forget_cache(self) -> None:
        """Let later reads come from the disk: fsync, then drop what memory holds of the file. What an earlier fsync, of
        whomever, failed to bring there reads right in memory until then."""
        self.sync()
        with translated(self.path, "dropping it from memory"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def next_data(self, offset: int) -> int | None:
        """The next byte at or behind `offset` that is not in a hole, or None."""
        with translated(self.path, f"looking for data from offset {offset}"):
            try:
                return os.lseek(self._fd, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but hole up to the end
                    return None
                if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):  # a block device, or who knows of no holes
                    return offset if offset < self.size() else None
                raise

    def lock(self, *, shared: bool = False) -> bool:
        """Try flock; False when somebody else holds it. Closing the file lets it go."""
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock_image(self) -> bool:
        """Lock an image against whoever writes it: QEMU, and trackers, which lock as QEMU does. False when one has it.

        QEMU locks a byte for what it does (100 and up) and one for what others may not do (200 and up); 1 is writing.
        """
        layout = "@hhqqi0q"  # struct flock: type, whence, start, length, pid
        if not self.lock():
            return False
        try:
            for byte in (101, 201):
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack(layout, fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
            for byte in (101, 201):
                asked = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
                found = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
                if struct.unpack(layout, found)[0] != fcntl.F_UNLCK:
                    return False
        except OSError:  # a file system without locks: nobody can have one
            pass
        return True

    def close(self) -> None:
        """Close; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def data_bytes(fd: int, start: int, end: int) -> int:
    """Bytes of [start, end) of a file that are not in holes; all of them where nobody can tell."""
    count = 0
    while start < end:
        try:
            data = os.lseek(fd, start, os.SEEK_DATA)
            hole = os.lseek(fd, data, os.SEEK_HOLE)
        except OSError as error:
            return count if error.errno == errno.ENXIO else count + end - start
        count += max(0, min(hole, end) - data)
        start = hole
    return count


class Files:
    """The file system. Errors as in `File`."""

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        """Open a file; `create` it when it is missing, with `exclusive` only when it is."""
        flags = os.O_RDWR if write else os.O_RDONLY
        if create or exclusive:
            flags |= os.O_CREAT | (os.O_EXCL if exclusive else 0)
        with translated(path, "opening"):
            return File(path, os.open(path, flags | os.O_CLOEXEC, 0o666))

    def read(self, path: Path, *, limit: int) -> bytes:
        """The whole of a small file; FormatError when it is larger than `limit` bytes."""
        with self.open(path) as file:
            data = file.pread(min(file.size(), limit) + 1, 0)
        if len(data) > limit:
            raise FormatError.at(path, limit, "file too large", wanted=f"at most {limit} bytes", got="more")
        return data

    def write_durably(self, path: Path, data: Buffer) -> None:
        """Replace `path` in one step that a crash leaves undone or done: write, fsync, rename, fsync."""
        temporary = path.with_name(path.name + ".new")
        with self.open(temporary, write=True, create=True) as file:
            file.truncate(0)
            file.pwrite(data, 0)
            file.sync()
        self.rename(temporary, path)
        self.sync_folder(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Rename, replacing `target`; durable only after `sync_folder`."""
        with translated(source, f"renaming to {target}"):
            os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is not there is no error."""
        with translated(path, "removing"):
            path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Create a folder and its parents, durably; one that is there is no error."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        with translated(path, "creating the folder"):
            path.mkdir(exist_ok=True)
        self.sync_folder(path.parent)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        with translated(path, "removing the folder"):
            path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        with translated(path, "fsync of the folder"):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def aside(self, work: Callable[[], None]) -> Aside:
        """Begin work on files that may happen while the caller does other things, at any moment until `wait`."""
        return Aside(work)

    def space(self, folder: Path) -> tuple[int, int]:
        """Bytes that are free, and that there are, in the file system of a folder."""
        with translated(folder, "asking for free space"):
            found = os.statvfs(folder)
            return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize

    def exists(self, path: Path) -> bool:
        """Whether there is anything of that name."""
        return path.exists()

    def is_at(self, file: File, path: Path) -> bool:
        """Whether `path` names that open file: whoever waited for a lock may hold one that was renamed meanwhile."""
        with translated(path, "looking it up"):
            try:
                return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except FileNotFoundError:
                return False

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, sorted; an empty list when there is no such folder."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []


#: The real file system.
FILES = Files()
