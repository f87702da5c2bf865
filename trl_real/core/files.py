"""Files and folders that appear complete or not at all. Nothing else in this package writes any."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


# What is being written has a name of this form until it is complete. A run that was killed leaves some behind.
UNFINISHED = re.compile(r"\.trl_real-[0-9a-f]{32}(\..*)?")
PROBE = 64 * 1024  # bytes
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """
    Write a file so that a reader finds all of it or what was there before, whatever happens meanwhile.

    Args:
        path (`str` or `Path`):
            Where the file is to be. An existing file is replaced; a link, a folder or a device is not.

    Yields:
        `Path`: An empty file in the same folder, with the same ending, to write to.

    Raises:
        `FileExistsError`: If there is something at `path` that is not a plain file.
    """
    path = Path(path)
    unfinished = _unfinished(path)
    try:
        check_plain(path)
        # Made by us alone, with the permissions that the umask leaves, and never where a link leads.
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
            error.filename = str(path)  # which a user knows
        raise


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder so that a reader finds all of it or none; where somebody else was faster, theirs stays."""
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
    """A new folder in `parent`, removed in the end."""
    folder = _unfinished(parent / "folder")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write text as a whole file, in UTF-8."""
    with whole_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def open_log(path: Path) -> int:
    """Open a file that only grows, for reading and for [`append`]; made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    check_plain(path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)


def append(log: int, data: bytes) -> None:
    """Add to a file that only grows, all of `data` or nothing, and let it reach the disk."""
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
    """Cut off what a killed process left unfinished at the end of a file that only grows."""
    os.ftruncate(log, size)


def replace_file(path: Path, new: Path) -> None:
    """Put a file in the place of another one, in one step."""
    check_plain(path)
    os.replace(new, path)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there."""
    path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder of ours in one step, for whoever looks for it, and then what was in it."""
    unfinished = _unfinished(path)
    with contextlib.suppress(FileNotFoundError):  # somebody else was faster
        path.rename(unfinished)
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what runs that were killed have left in a folder. Only for whoever holds its lock."""
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
        raise FileExistsError(f"{path} is {what}, which is not written to. Move it, or choose another path.")


def check_writable(folder: Path) -> None:
    """Raise unless some bytes can be written to a folder and reach its disk."""
    probe = _unfinished(folder / "probe")
    try:
        with open(probe, "xb") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of what is in a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach its disk, where the system can do that."""
    if os.name == "posix":
        _sync(folder)


def _sync(path: Path) -> None:
    # Windows syncs only what is open for writing.
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unfinished(path: Path) -> Path:
    """A new name beside `path`, with its ending, by which libraries know the format."""
    return path.with_name(f".trl_real-{uuid.uuid4().hex}{path.suffix}")
