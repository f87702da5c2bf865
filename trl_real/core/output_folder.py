"""The output folder of a run. Only one run at a time writes to it, and it replaces only its own files: `OutputFolder`."""

import contextlib
import errno
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .files import (
    check_plain,
    check_writable,
    remove_file,
    remove_unfinished,
    replace_file,
    sha256,
    sync_folder,
    temporary_folder,
    whole_file,
    write_text,
)


# Both begin with an underscore, because `Trainer.push_to_hub` ignores such files.
RECORD = "_trl_real.json"
LOCK = "_trl_real.lock"
ABOUT = "SHA-256 of what trl_real wrote here. A later run replaces these files only if they are unchanged."
WAIT = 10.0  # seconds that another process may need to put its files in place


class OutputFolder:
    """
    A folder in which runs replace only files that they can prove are their own and unchanged.

    The proof is `_trl_real.json`, which holds the hashes of the files. It is written before the files are replaced, with the
    hashes of both the old and the new files, and once more afterwards. If a run is killed in between, the next run still
    recognizes the files.

    Args:
        path (`str` or `Path`):
            The folder. [`~OutputFolder.locked`] creates it if it does not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @contextlib.contextmanager
    def locked(self, wait: float = 0.0) -> Iterator[None]:
        """
        Hold the lock of the folder. The same thread may acquire it again. A killed process releases its lock.

        Args:
            wait (`float`, *optional*, defaults to `0.0`):
                How many seconds to wait for the lock.

        Raises:
            `OSError`: If another run holds the lock, or the folder cannot be created or written to.
        """
        with self._explained():
            self.path.mkdir(parents=True, exist_ok=True)
            check_plain(self.path / LOCK)
            lock = FileLock(self.path.resolve() / LOCK, is_singleton=True)
            outermost = not lock.is_locked
            try:
                lock.acquire(timeout=wait)
            except Timeout as error:
                raise BlockingIOError(
                    f"Another run is writing to {self.path}. Wait until it ends, or choose another `output_dir`."
                ) from error
        try:
            if outermost:
                with self._explained():
                    remove_unfinished(self.path)
                    check_writable(self.path)
            yield
        finally:
            lock.release()

    def check(self, names: Collection[str], inputs: Iterable[str | Path] = ()) -> None:
        """
        Raise if one of the files `names` may not be replaced.

        Args:
            names (`list[str]`):
                The files that a run may write, or remove if an earlier run wrote them.
            inputs (`list[str]`, *optional*):
                The files and folders that the run reads.

        Raises:
            `FileExistsError`: If a file is an input, was not written by a run, or was changed since.
        """
        there = [self.path / name for name in names if os.path.lexists(self.path / name)]
        check_not_inputs(there, inputs, "output_dir")
        record = self._record()
        for path in there:
            _check_own(path, record)

    @contextlib.contextmanager
    def replacing(self, names: Collection[str]) -> Iterator[Path]:
        """
        Replace the files `names` by those that the caller writes to the yielded folder. Files in `names` that the caller does
        not write are removed.

        Raises:
            `FileExistsError`: As in `check`, before anything is replaced.
        """
        with self.locked(WAIT), temporary_folder(self.path) as stage:
            yield stage
            self._publish(names, stage)

    @contextlib.contextmanager
    def lent(self, name: str) -> Iterator[None]:
        """
        Let a library write the file `name`. If the file is new or a run wrote it, it belongs to the run afterwards. Any
        other file is restored. Takes no lock, and raises only what the library raises.
        """
        path = self.path / name
        before = path.read_bytes() if path.is_file() else None
        try:
            self.check((name,))
            own = True
        except OSError:
            own = False
        yield
        with contextlib.suppress(OSError):
            if own and path.is_file():
                self._write_record({**self._record(), name: [sha256(path)]})
            elif before is not None and path.read_bytes() != before:
                with whole_file(path.resolve()) as unfinished:
                    unfinished.write_bytes(before)

    def _publish(self, names: Collection[str], stage: Path) -> None:
        new = {name: sha256(stage / name) for name in names if (stage / name).exists()}
        self.check(names)
        before = self._record()
        self._write_record({**before, **{name: [*before.get(name, []), digest] for name, digest in new.items()}})
        record = self._record()
        for name in names:
            path = self.path / name
            found = _check_own(path, record) if os.path.lexists(path) else None
            if name not in new:
                remove_file(path)
            elif found != new[name]:
                replace_file(path, stage / name)
        sync_folder(self.path)
        others = {name: digests for name, digests in before.items() if name not in names}
        self._write_record({**others, **{name: [digest] for name, digest in new.items()}})

    def _record(self) -> dict[str, list[str]]:
        """The hashes that each file may have."""
        path = self.path / RECORD
        check_plain(path)
        if not path.exists():
            return {}
        try:
            files = json.loads(path.read_text(encoding="utf-8"))["files"]
            return {str(name): [str(digest) for digest in digests] for name, digests in files.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileExistsError(
                f"{path} is not a valid record of trl_real. Move it, or choose another `output_dir`."
            ) from error

    def _write_record(self, files: dict[str, list[str]]) -> None:
        files = {name: list(dict.fromkeys(digests)) for name, digests in sorted(files.items())}
        if files != self._record():
            write_text(self.path / RECORD, json.dumps({"about": ABOUT, "files": files}, indent=2) + "\n")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain why a folder cannot be used."""
        try:
            yield
        except (BlockingIOError, FileExistsError, NotADirectoryError) as error:
            if error.errno not in (errno.EEXIST, errno.ENOTDIR):
                raise
            raise NotADirectoryError(
                f"`output_dir`: {error.filename or self.path} is a file, not a folder. Choose another `output_dir`."
            ) from error
        except OSError as error:
            raise type(error)(
                f"`output_dir`: {self.path} cannot be written to: {error.strerror or error}. Make room or change its "
                "permissions, or choose another `output_dir`."
            ) from error


def _check_own(path: Path, record: dict[str, list[str]]) -> str:
    """The hash of a file. Raise unless a run wrote it and it is unchanged."""
    check_plain(path)
    digest = sha256(path)
    if digest not in record.get(path.name, ()):
        why = "was changed after" if path.name in record else "is there, but was not written by"
        raise FileExistsError(
            f"{path} {why} a run of trl_real, so it is not replaced. Move it, or choose another `output_dir`."
        )
    return digest


def check_not_inputs(outputs: list[Path], inputs: Iterable[str | Path], option: str) -> None:
    """Raise if an output of a run is one of its inputs, or a file in one of them. `option` chooses the outputs."""
    there = [output for output in outputs if output.exists()]
    for path in inputs if there else ():
        for file in _files(Path(path)):
            same = [output for output in there if os.path.samefile(file, output)]
            if same:
                raise FileExistsError(
                    f"{file} is an input of this run, which would replace or remove {same[0]}. Choose another `{option}`, or move "
                    "the input."
                )


def _files(path: Path) -> Iterator[Path]:
    """A file, or the files in a folder, including those behind links."""
    if path.is_file():
        yield path
    seen = set()
    for folder, subfolders, names in os.walk(path, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # links may lead in circles
            subfolders.clear()
            continue
        seen.add(real)
        yield from (file for name in names if (file := Path(folder, name)).is_file())
