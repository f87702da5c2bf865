"""Write files and folders that appear complete or not at all. All writing in this package goes through this module."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


# Files and folders have a name of this form until they are complete. A killed run leaves them behind.
UNFINISHED = re.compile(r"\.trl_real-[0-9a-f]{32}(\..*)?")
PROBE = 64 * 1024  # bytes
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """
    Write a file atomically: a reader finds either the complete new file or the previous one, even after a crash.

    Args:
        path (`str` or `Path`):
            Where to put the file. An existing file is replaced; a link, a folder or a device is not.

    Yields:
        `Path`: An empty file to write to, in the same folder and with the same suffix.

    Raises:
        `FileExistsError`: If there is something at `path` that is not a plain file.
    """
    path = Path(path)
    unfinished = _unfinished(path)
    try:
        check_plain(path)
        # `O_EXCL` never follows a link or opens an existing file. The umask decides the permissions.
        os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield unfinished
            _sync(unfinished)
            replace_file(path, unfinished)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        unnamed = error.filename is None and error.errno in FULL
        if unnamed or str(error.filename) == str(unfinished):
            error.filename = str(path)  # the name that the user knows
        raise


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder atomically: a reader finds all of it or none. If another process was faster, its folder stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent) as unfinished:
        yield unfinished
        for folder, _, names in os.walk(unfinished):
            for name in names:
                _sync(Path(folder, name))
            sync_folder(Path(folder))
        try:
            unfinished.rename(path)
        except OSError:
            if path.is_symlink() or not path.is_dir():
                raise
        sync_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, removed on exit."""
    folder = _unfinished(parent / "folder")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def open_log(path: Path) -> int:
    """Open an append-only file for reading and for [`append`]. It is created if it does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    check_plain(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)


def append(log: int, data: bytes) -> None:
    """Append all of `data` or nothing to an append-only file, and sync it to disk."""
    size = os.fstat(log).st_size
    try:
        while data:
            data = data[os.write(log, data) :]
        os.fsync(log)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(log, size)
        raise


def cut(log: int, size: int) -> None:
    """Remove an incomplete last line, which a killed process left, from an append-only file."""
    os.ftruncate(log, size)


def replace_file(path: Path, new: Path) -> None:
    """Replace a file by another one in one step."""
    check_plain(path)
    os.replace(new, path)


def remove_file(path: Path) -> None:
    """Remove a file if it exists."""
    path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder of this package. It disappears in one step; its content is deleted afterwards."""
    unfinished = _unfinished(path)
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.rename(unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files that killed runs left in a folder. The caller must hold the lock of the folder."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if UNFINISHED.fullmatch(path.name) is None:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def check_plain(path: Path) -> None:
    """Raise if there is something at `path` that is not a plain file."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        what = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "not a plain file"
        raise FileExistsError(f"{path} is {what} and will not be overwritten. Move it, or choose another path.")


def check_writable(folder: Path) -> None:
    """Raise unless a few bytes can be written to a folder and synced to its disk."""
    probe = _unfinished(folder / "probe")
    try:
        with open(probe, "xb") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Sync the file names in a folder to its disk, on systems that support it."""
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    # Windows syncs only files that are open for writing.
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unfinished(path: Path) -> Path:
    """A new name next to `path` with the same suffix, since libraries recognize formats by it."""
    return path.with_name(f".trl_real-{uuid.uuid4().hex}{path.suffix}")
