"""What a Hub keeps: repositories with their commits and files, and what it holds against a card."""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml  # huggingface_hub depends on it


LARGE = re.findall(r"\S+", "arrow bin bz2 gz h5 jpg npy npz onnx parquet pkl png pt safetensors zip")
LICENSES = re.findall(
    r"\S+",
    """afl-3.0 agpl-3.0 apache-2.0 bsd bsd-2-clause bsd-3-clause cc cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0
    cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 epl-2.0 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0
    isc lgpl lgpl-2.1 lgpl-3.0 llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 mit mpl-2.0 odbl odc-by openrail
    openrail++ other pddl unknown unlicense wtfpl zlib""",
)
COLORS = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
SPACE_CARD = {"sdk": ["gradio", "docker", "static"], "colorFrom": COLORS, "colorTo": COLORS}


class NoSuchRevisionError(Exception):
    pass


class Large(bytes):
    """The content of a file in large file storage (LFS); plain `bytes` lie in git."""

    def pointer(self) -> bytes:
        version = "https://git-lfs.github.com/spec/v1"
        return f"version {version}\noid sha256:{sha256(self)}\nsize {len(self)}\n".encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Commit:
    message: str
    files: dict[str, bytes]
    parent: str | None = None
    author: str = "system"
    oid: str = field(default_factory=lambda: secrets.token_hex(20))
    date: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}")

    def entry(self, path: str) -> dict[str, Any]:
        """What a listing says of a file or a folder; empty where there is neither."""
        if (content := self.files.get(path)) is None:
            inside = sorted(item for item in self.files.items() if item[0].startswith(f"{path}/"))
            oid = git_oid(repr(inside).encode())
            return {"type": "directory", "oid": oid, "size": 0, "path": path} if inside else {}
        entry = {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
        if isinstance(content, Large):
            pointer, oid = content.pointer(), sha256(content)
            lfs = {"oid": oid, "sha256": oid, "size": len(content), "pointerSize": len(pointer)}
            entry |= {"oid": git_oid(pointer), "lfs": lfs}
        return entry


def first_commit(kind: str) -> Commit:
    files = {".gitattributes": "".join(f"*.{end} filter=lfs\n" for end in LARGE).encode()}
    if kind == "space":  # as the Hub does it
        files["README.md"] = b"---\ntitle: New Space\ncolorFrom: red\ncolorTo: blue\nsdk: docker\n---\n"
    return Commit("initial commit", files)


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    refs: dict[str, list[Commit]] = field(init=False)  # each: oldest first
    storage: dict[str, Large] = field(default_factory=dict)  # large files that were uploaded, by SHA-256
    awaited: dict[str, int] = field(default_factory=dict)  # sizes of those that were announced
    secrets: dict[str, str] = field(default_factory=dict)  # of a Space

    def __post_init__(self) -> None:
        self.refs = {"main": [first_commit(self.kind)]}

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits up to a ref or a commit, oldest first."""
        for ref, commits in self.refs.items():
            for length, commit in enumerate(commits, start=1):
                if commit.oid == revision or (ref == revision and length == len(commits)):
                    return commits[:length]
        raise NoSuchRevisionError(revision)

    def head(self, revision: str = "main") -> Commit:
        return self.history(revision)[-1]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.head(revision).files


def front_matter(readme: str) -> Any:
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", readme, re.DOTALL | re.MULTILINE)
    return (yaml.safe_load(block[1]) if block else None) or {}


def card_errors(readme: str, kind: str) -> list[str]:
    """What the Hub holds against the metadata of a card."""
    try:
        card = {key: value if isinstance(value, list) else [value] for key, value in front_matter(readme).items()}
    except (yaml.YAMLError, AttributeError) as error:
        return [f"The metadata is no YAML mapping: {error}"]
    errors = [f'"license" must be one of {LICENSES}'] * (not set(card.get("license", [])).issubset(LICENSES))
    if kind == "space":
        for key, values in SPACE_CARD.items():
            errors += [f'"{key}" must be one of {values}'] * (not set(card.get(key, [])) <= set(values))
        errors += ['"sdk" is required'] * ("sdk" not in card)
        errors += ['"short_description" is too long'] * (len(str(card.get("short_description", [""])[0])) > 60)
    for key in ("base_model", "datasets") if kind == "model" else ():
        unknown = [value for value in card.get(key, []) if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(value))]
        errors += [f'"{key}" with value "{value}" is not valid. Use an id of the Hub.' for value in unknown]
    return errors
