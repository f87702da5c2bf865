import ast
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

import trl_real
from trl_real.core import files
from trl_real.core.files import remove_unfinished, sha256, whole_file, whole_folder, write_text


PACKAGE = Path(trl_real.__file__).parent


def test_a_file_is_written_with_the_permissions_of_the_umask(tmp_path):
    umask = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "café\n")
    finally:
        os.umask(umask)
    assert (tmp_path / "a.txt").read_bytes() == "café\n".encode()
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_fails_on_the_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted():
        with whole_file(path) as unfinished:
            assert unfinished.suffix == ".json"
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("call", "number", "left"), [("open", 1, "old"), ("fsync", 1, "old"), ("replace", 1, "old"), ("fsync", 2, "new")]
)
def test_a_disk_that_fails_leaves_the_old_or_the_new_file(call, number, left, tmp_path, monkeypatch):
    path, calls = tmp_path / "a.json", []
    path.write_text("old")
    real = getattr(os, call)

    def fails(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fails)
        with pytest.raises(OSError, match="No space left") as error:
            write_text(path, "new")
    assert (
        str(error.value) == f"[Errno 28] No space left on device: '{path}'"
    )  # and not the name of the unfinished one
    assert path.read_text() == left
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        write_text(tmp_path / "nope" / "a.json", "")
    assert str(error.value) == f"[Errno 2] No such file or directory: '{tmp_path / 'nope' / 'a.json'}'"


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_is_no_plain_file_is_left_alone(kind, tmp_path):
    path, other = tmp_path / "a.json", tmp_path / "other.json"
    other.write_text("of a user")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(other if kind == "link" else tmp_path / "nowhere")
    before = os.lstat(path)
    with pytest.raises(
        FileExistsError, match=r"a\.json is (a link|a folder|not a plain file) and will not be overwritten"
    ):
        write_text(path, "new")
    assert os.lstat(path) == before
    assert other.read_text() == "of a user"
    assert not (tmp_path / "nowhere").exists()


def test_a_link_that_waits_for_the_temporary_name_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("of a user")
    monkeypatch.setattr(files, "_unfinished", lambda path: tmp_path / "guessed")
    (tmp_path / "guessed").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.json", "new")
    assert victim.read_text() == "of a user"


def test_of_two_folders_the_first_stays(tmp_path):
    with whole_folder(tmp_path / "chunks" / "a") as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "file").write_text("first")
        with whole_folder(tmp_path / "chunks" / "a") as other:
            (other / "file").write_text("faster")
    assert [path.name for path in (tmp_path / "chunks").iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "chunks" / "a").iterdir()] == ["file"]


def test_a_folder_is_never_there_by_half(tmp_path):
    seen, stop = set(), threading.Event()

    def look():
        while not stop.is_set():
            for n in range(30):
                if (tmp_path / str(n)).exists():
                    seen.add(len(list((tmp_path / str(n)).iterdir())))

    watcher = threading.Thread(target=look)
    watcher.start()
    for n in range(30):
        with whole_folder(tmp_path / str(n)) as unfinished:
            for name in "abc":
                (unfinished / name).write_text(name)
    stop.set()
    watcher.join()
    assert seen <= {3}


def test_only_what_is_unfinished_is_removed(tmp_path):
    kept = [".trl_real-notes", ".trl_real-", "a.json", f"trl_real-{'0' * 32}"]
    for name in [*kept, f".trl_real-{'0' * 32}.json", f".trl_real-{'1' * 32}"]:
        (tmp_path / name).write_text("")
    (tmp_path / f".trl_real-{'2' * 32}").mkdir()
    (tmp_path / f".trl_real-{'2' * 32}" / "file").write_text("")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_hashes_are_those_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


WRITERS = {
    *("write_text", "write_bytes", "touch", "to_json", "to_csv", "to_parquet", "to_sql", "savefig", "save"),
    *(
        "save_to_disk",
        "save_pretrained",
        "save_file",
        "dump",
        "rename",
        "renames",
        "unlink",
        "remove",
        "rmdir",
        "rmtree",
    ),
    *(
        "symlink_to",
        "hardlink_to",
        "symlink",
        "link",
        "copyfile",
        "copy2",
        "copytree",
        "move",
        "truncate",
        "write_table",
    ),
}
SAFE = {"whole_file", "whole_folder", "replacing", "BytesIO"}


def writers(tree):
    """The lines of calls that write, outside of what makes files whole."""

    def name_of(call):
        function = call.func if isinstance(call, ast.Call) else call
        return getattr(function, "attr", getattr(function, "id", None))

    def writes(call):
        name, method = name_of(call), isinstance(call.func, ast.Attribute)
        owner = getattr(call.func.value, "id", None) if method else None
        if name == "open":
            of_path = method and owner not in ("io", "gzip", "fsspec", "os", "codecs")
            modes = [*call.args[0 if of_path else 1 :][:1], *(k.value for k in call.keywords if k.arg == "mode")]
            return any(not isinstance(mode, ast.Constant) or set(str(mode.value)) & set("wax+") for mode in modes)
        return method and (name in WRITERS or (name == "replace" and owner in ("os", "path")))

    def visit(node, safe):
        if isinstance(node, ast.With):
            for item in node.items:
                yield from visit(item.context_expr, safe)
                safe = safe or name_of(item.context_expr) in SAFE
            for child in node.body:
                yield from visit(child, safe)
            return
        if isinstance(node, ast.Call) and not safe and writes(node):
            yield node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, safe)

    return list(visit(tree, False))


def test_nothing_else_writes():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        lines = writers(ast.parse(path.read_text(encoding="utf-8")))
        if lines and path != PACKAGE / "core" / "files.py":
            found[str(path.relative_to(PACKAGE))] = lines
    assert found == {}


@pytest.mark.parametrize(
    ("code", "n"),
    [
        ("open(p, 'w')", 1),
        ("open(p, mode='ab')", 1),
        ("open(p, mode)", 1),
        ("p.open('x')", 1),
        ("open(p, 'rb')", 0),
        ("p.open()", 0),
        ("os.replace(a, b)", 1),
        ("text.replace(a, b)", 0),
        ("card.save(p)", 1),
        ("with whole_file(p) as u, open(u, 'w') as f: pass", 0),
        ("with open(u, 'w') as f, whole_file(p) as u: pass", 1),
        ("with whole_file(p) as u:\n  if x: rows.to_parquet(u)", 0),
        ("with io.BytesIO() as b: rows.to_parquet(b)", 0),
        ("with whole_file(p) as u: pass\nrows.to_json(u)", 1),
    ],
)
def test_writers_are_found(code, n):
    assert len(writers(ast.parse(code))) == n
