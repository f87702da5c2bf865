"""A Hugging Face Hub on this machine: enough of it for huggingface_hub, datasets and transformers to push and load.

The real clients talk HTTP to it: start it and set `HF_ENDPOINT` to its address before any of them is imported.
It keeps models, datasets and Spaces in memory, refuses what the real Hub refuses, and fails where a test asks it to.
"""

import fnmatch
import json
import re
import sys
import threading
import traceback
from base64 import b64decode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from hub_repos import SPACE_CARD, Commit, Large, NoSuchRevisionError, Repo, card_errors, front_matter, git_oid, sha256


ALICE, ALICE_READS, BOB_READS, CAROL = ("hf_" + who.ljust(34, "X") for who in ("alice", "aliceReads", "bob", "carol"))
WRITERS, READERS = {ALICE: "alice", CAROL: "carol"}, {ALICE_READS: "alice", BOB_READS: "bob"}
JSON = "application/json; charset=utf-8"


@dataclass
class Answer:
    status: int | str = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, content: Any, status: int = 200, **headers: str) -> "Answer":
        body = json.dumps(content, default=str).encode()  # default: a card may hold dates
        return cls(status, body, headers | {"Content-Type": JSON})


class HubError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, headers: Any = (), **more: str):
        super().__init__(message)
        told = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **dict(headers)}
        self.answer = Answer.json({"error": message, **more}, status, **told)


@dataclass
class Request:
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes
    user: str | None
    role: str | None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Fault:
    method: str
    pattern: str
    answer: Answer
    times: float
    after: int

    def strikes(self, method: str, path: str) -> bool:
        if self.times <= 0 or not re.fullmatch(self.method, method) or not re.search(self.pattern, path):
            return False
        self.after -= 1
        self.times -= self.after < 0
        return self.after < 0


ROUTES: list[tuple[str, re.Pattern[str], Any, str]] = []


def route(method: str, path: str, access: str = "") -> Any:
    """`{repo}`, `{git}`: a repository, for the endpoint to get if the caller has access. `*`: a part of the path."""
    name = r"(?P<name>[^/]+(?:/[^/]+)?)"
    path = path.replace("*", "([^/]+)").replace("{git}", rf"(?P<kind>datasets/|spaces/)?{name}")
    pattern = re.compile(path.replace("{repo}", rf"(?P<kind>models|datasets|spaces)/{name}"))

    def add(endpoint: Any) -> Any:
        ROUTES.append((method, pattern, endpoint, access))
        return endpoint

    return add


class LocalHub:
    """Serves from the moment it is made until `close()`."""

    page_size = 1000
    lists_files = True  # in what it says of a repository, as the real one does

    def __init__(self) -> None:
        self.tokens = {token: (user, "write") for token, user in WRITERS.items()}  # user and role of each token
        self.tokens |= {token: (user, "read") for token, user in READERS.items()}
        self.lock = threading.RLock()
        self.reset()
        self.server = Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # Large files lie on another host, as on the real Hub: clients do not follow the redirect of a HEAD there.
        self.storage_url = f"http://localhost:{self.server.server_port}/storage"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def reset(self) -> None:
        """Forget repositories, faults and the log."""
        with self.lock:
            self.repos: dict[tuple[str, str], Repo] = {}
            self.faults: list[Fault] = []
            self.orgs: dict[str, list[str]] = {}  # members of each organization
            self.requests: list[tuple[str, str, str | None]] = []  # method, path as sent, user

    def fail(
        self, method: str, pattern: str, with_: int | str = 503, times: float = 1, after: int = 0, body="{}", mime=JSON
    ) -> None:
        """Fail the next `times` requests that match (math.inf: all), once `after` of them went through.

        `with_`: a status; "drop": the connection is cut before anything is done; "lose": the request is carried out,
        then the connection is cut in place of the answer. `pattern` is searched for in the quoted path.
        """
        with self.lock:
            answer = Answer(with_, body.encode(), {"Content-Type": mime})
            self.faults.append(Fault(method, pattern, answer, times, after))

    def sent(self, method: str, pattern: str) -> list[str]:
        """The paths of the requests that match, in the order of their arrival."""
        return [path for verb, path, _ in self.requests if re.fullmatch(method, verb) and re.search(pattern, path)]

    def serve(self, method: str, path: str, headers: Any, body: bytes) -> Answer | None:
        """The answer to a request, or None for a cut connection."""
        token, url = headers.get("Authorization", "").removeprefix("Bearer "), urlsplit(path)
        request = Request(url.path, dict(parse_qsl(url.query)), headers, body, *self.tokens.get(token, (None, None)))
        with self.lock:
            self.requests.append((method, path, request.user))
            fault = next((fault for fault in self.faults if fault.strikes(method, path)), None)
            if fault and fault.answer.status != "lose":
                return None if fault.answer.status == "drop" else fault.answer
            try:
                if token and not request.user:
                    raise HubError(401, "Invalid credentials in Authorization header")
                answer = self.dispatch(method.replace("HEAD", "GET"), request)
            except HubError as error:
                answer = error.answer
            except NoSuchRevisionError as error:
                answer = HubError(404, f"Invalid rev id: {error}", "RevisionNotFound").answer
            except Exception:
                traceback.print_exc()
                answer = Answer.json({"error": traceback.format_exc()}, 500)
            return None if fault else answer

    def dispatch(self, method: str, request: Request) -> Answer:
        for verb, pattern, endpoint, access in ROUTES:
            if verb == method and (match := pattern.fullmatch(request.path)):
                named = match.groupdict()
                parts = [part and unquote(part) for part in match.groups()[len(named) :]]
                if named:
                    kind = (named["kind"] or "model").rstrip("s/")
                    parts.insert(0, self.open(request, kind, unquote(named["name"]), access, *parts[:1]))
                answer = endpoint(self, request, *parts)
                return answer if isinstance(answer, Answer) else Answer.json(answer)
        raise HubError(404, f"No such endpoint: {method} {request.path}")

    def open(self, request: Request, kind: str, name: str, access: str, revision: str = "") -> Repo:
        """The repository, if the caller has access: to "read", "write", "propose" changes or "commit" (either)."""
        repo = self.repos.get((kind, name))
        if repo is None or (repo.private and access and not self.owns(request.user, repo.owner)):
            status, message = (404, "Repository not found") if request.user else (401, "Invalid username or password.")
            raise HubError(status, message, "RepoNotFound")
        if access == "commit":
            access = "propose" if request.query.get("create_pr") or revision.startswith("refs/pr/") else "write"
        if access not in ("write", "propose"):
            return repo
        if not self.owns(self.writer(request, "RepoNotFound"), repo.owner) and access == "write":
            raise HubError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repo

    def owns(self, user: str | None, owner: str) -> bool:
        return user == owner or user in self.orgs.get(owner, ())

    def writer(self, request: Request, code: str | None = None) -> str:
        if request.user is None:
            raise HubError(401, "Invalid username or password.", code)
        if request.role == "read":
            raise HubError(403, "Forbidden: you must use a write token to upload to a repository.")
        return request.user

    def web_url(self, repo: Repo) -> str:
        return f"{self.url}/{'' if repo.kind == 'model' else f'{repo.kind}s/'}{repo.id}"

    # --- Accounts and repositories ---

    @route("GET", "/api/whoami-v2")
    def whoami(self, request: Request) -> Any:
        if request.user is None:
            raise HubError(401, "Invalid username or password.")
        access = {"type": "access_token", "accessToken": {"displayName": "tests", "role": request.role}}
        orgs = [{"name": org} for org, members in self.orgs.items() if request.user in members]
        return {"type": "user", "id": request.user, "name": request.user, "orgs": orgs, "isPro": False, "auth": access}

    @route("POST", "/api/repos/create")
    def create(self, request: Request) -> Any:
        user, asked = self.writer(request), request.json()
        kind, owner = asked.get("type") or "model", asked.get("organization") or user
        if not self.owns(user, owner):
            raise HubError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if kind == "space" and asked.get("sdk") not in SPACE_CARD["sdk"]:
            raise HubError(400, f'"sdk" must be one of {SPACE_CARD["sdk"]}')
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repo = Repo(kind, f"{owner}/{asked['name']}", private)
        if self.repos.setdefault((kind, repo.id), repo) is not repo:
            raise HubError(409, f"You already created this {kind} repo", url=self.web_url(repo))
        return {"url": self.web_url(repo), "name": repo.id}

    @route("DELETE", "/api/repos/delete")
    def delete(self, request: Request) -> Any:
        user, asked = self.writer(request), request.json()
        name = f"{asked.get('organization') or user}/{asked['name']}"
        repo = self.open(request, asked.get("type") or "model", name, "write")
        return {"deleted": self.repos.pop((repo.kind, repo.id)).id}

    @route("PUT", "/api/{repo}/settings", "write")
    def settings(self, request: Request, repo: Repo) -> Any:
        asked = request.json()
        repo.private = asked.get("private", asked.get("visibility", repo.private)) in (True, "private")
        return {"private": repo.private}

    @route("POST", "/api/{repo}/branch/*", "write")
    def branch(self, request: Request, repo: Repo, name: str) -> Any:
        if name in repo.refs:
            raise HubError(409, "Reference already exists")
        repo.refs[name] = repo.history(request.json().get("startingPoint", "main"))
        return {}

    @route("DELETE", "/api/{repo}/branch/*", "write")
    def delete_branch(self, request: Request, repo: Repo, name: str) -> Any:
        repo.history(name)
        del repo.refs[name]
        return {}

    @route("POST", "/api/{repo}/secrets", "write")
    def add_secret(self, request: Request, repo: Repo) -> Any:
        if repo.kind != "space":
            raise HubError(404, "Only a Space has secrets")
        repo.secrets[request.json()["key"]] = request.json()["value"]
        return {}

    # --- Reading ---

    def page(self, request: Request, items: list[Any]) -> Answer:
        start = int(request.query.get("cursor", 0))
        stop = start + self.page_size
        query = urlencode(request.query | {"cursor": stop})
        link = {"Link": f'<{self.url}{request.path}?{query}>; rel="next"'} if stop < len(items) else {}
        return Answer.json(items[start:stop], **link)

    @route("GET", "/api/{repo}/refs", "read")
    def refs(self, request: Request, repo: Repo) -> Any:
        found: dict[str, list[Any]] = {"branches": [], "pullRequests": [], "tags": [], "converts": []}
        for name, commits in repo.refs.items():
            group, ref = ("pullRequests", name) if name.startswith("refs/pr/") else ("branches", f"refs/heads/{name}")
            found[group].append({"name": name, "ref": ref, "targetCommit": commits[-1].oid})
        return found

    @route("GET", "/api/{repo}/commits/*", "read")
    def commits(self, request: Request, repo: Repo, revision: str) -> Any:
        told = []
        for commit in reversed(repo.history(revision)):
            told.append({"id": commit.oid, "title": commit.message, "message": "", "date": commit.date})
            told[-1]["authors"] = [{"user": commit.author}]
        return self.page(request, told)

    @route("GET", "/api/{repo}/tree/*(?:/(.+))?", "read")
    def tree(self, request: Request, repo: Repo, revision: str, folder: str | None) -> Any:
        commit, prefix = repo.head(revision), f"{folder.rstrip('/')}/" if folder else ""
        folders = {str(parent) for path in commit.files for parent in PurePosixPath(path).parents} - {"."}
        paths = sorted(path for path in {*commit.files, *folders} if path.startswith(prefix))
        if folder and not paths:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        if request.query.get("recursive", "").lower() not in ("true", "1"):
            paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
        return self.page(request, [commit.entry(path) for path in paths])

    @route("POST", "/api/{repo}/paths-info/*", "read")
    def paths_info(self, request: Request, repo: Repo, revision: str) -> Any:
        commit, paths = repo.head(revision), parse_qs(request.body.decode()).get("paths", [])
        return [entry for path in paths if (entry := commit.entry(path))]

    @route("GET", "/{git}/resolve/*/(.+)", "read")
    def resolve(self, request: Request, repo: Repo, revision: str, path: str) -> Any:
        commit = repo.head(revision)
        headers = {"X-Repo-Commit": commit.oid}
        if (content := commit.files.get(path)) is None:
            raise HubError(404, "Entry not found", "EntryNotFound", headers)
        if not isinstance(content, Large):
            return self.download(request, content, **headers, ETag=f'"{git_oid(content)}"')
        oid = sha256(content)
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return Answer(302, headers=headers | {"Location": f"{self.storage_url}/{repo.kind}s/{repo.id}/{oid}"})

    @route("GET", "/storage/{repo}/([0-9a-f]{64})")
    def stored(self, request: Request, repo: Repo, oid: str) -> Any:
        if oid not in repo.storage:
            raise HubError(404, "No such object")
        return self.download(request, repo.storage[oid], ETag=f'"{oid}"')

    def download(self, request: Request, content: bytes, **headers: str) -> Answer:
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        wanted, size = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", "")), len(content)
        if not wanted:
            return Answer(200, content, headers)
        first, last = wanted.groups()
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
        return Answer(206, content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"})

    # --- Writing ---

    @route("POST", "/api/validate-yaml")
    def validate(self, request: Request) -> Any:
        content = request.json()["content"]
        errors = [{"message": message} for message in card_errors(content, request.json().get("repoType", "model"))]
        empty = not errors and not front_matter(content)
        warnings = [{"message": "empty or missing yaml metadata in repo card"}] if empty else []
        return Answer.json({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    @route("POST", "/api/{repo}/preupload/*", "commit")
    def preupload(self, request: Request, repo: Repo, revision: str) -> Any:
        commit, answers = repo.head(revision), []
        attributes = commit.files.get(".gitattributes", b"").decode().splitlines()
        tracked = [rule.split()[0] for rule in attributes if "filter=lfs" in rule]
        for file in request.json()["files"]:
            path, entry = file["path"], commit.entry(file["path"])
            large = file["size"] > 10_000_000 or b"\0" in b64decode(file["sample"])
            large |= any(fnmatch.fnmatch(path if "/" in rule else path.split("/")[-1], rule) for rule in tracked)
            known = {"path": path, "oid": entry.get("lfs", entry).get("oid"), "shouldIgnore": False}
            answers.append(known | {"uploadMode": "lfs" if large else "regular"})
        return {"files": answers}

    @route("POST", r"/{git}\.git/info/lfs/objects/batch", "propose")
    def announce(self, request: Request, repo: Repo) -> Any:
        verify = {"href": f"{self.web_url(repo)}.git/info/lfs/verify"}
        objects = [{"oid": file["oid"], "size": file["size"]} for file in request.json()["objects"]]
        for file in objects:
            if file["oid"] not in repo.storage:
                repo.awaited[file["oid"]] = file["size"]
                upload = {"href": f"{self.storage_url}/{repo.kind}s/{repo.id}/{file['oid']}"}
                file["actions"] = {"upload": upload, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/storage/{repo}/([0-9a-f]{64})")
    def store(self, request: Request, repo: Repo, oid: str) -> Any:
        if (sha256(request.body), len(request.body)) != (oid, repo.awaited.get(oid)):
            raise HubError(400, "The object is not the one that was announced")
        repo.storage[oid] = Large(request.body)
        return Answer(headers={"ETag": f'"{oid}"'})

    @route("POST", r"/{git}\.git/info/lfs/verify", "propose")
    def verify(self, request: Request, repo: Repo) -> Any:
        file = request.json()
        if file["oid"] not in repo.storage or len(repo.storage[file["oid"]]) != file["size"]:
            raise HubError(404, "No such object of this size")
        return {}

    @route("POST", "/api/{repo}/commit/*", "commit")
    def commit(self, request: Request, repo: Repo, revision: str) -> Any:
        (_, header), *changes = ((line["key"], line["value"]) for line in map(json.loads, request.body.splitlines()))
        parent, new_pull = header.get("parentCommit"), bool(request.query.get("create_pr"))
        history = repo.history(parent or revision if new_pull else revision)
        head = history[-1]
        if not new_pull and revision not in repo.refs:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if parent not in (None, head.oid):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(head.files)
        for key, value in changes:
            self.change(repo, files, key, value)
        readme = files.get("README.md", b"")
        if readme != head.files.get("README.md") and (errors := card_errors(readme.decode(), repo.kind)):
            raise HubError(400, f"Invalid metadata in README.md: {errors}")
        if new_pull:
            revision = f"refs/pr/{1 + sum(ref.startswith('refs/pr/') for ref in repo.refs)}"
        if new_pull or files != head.files:  # an empty commit leaves the head where it is
            head = Commit(header["summary"], files, head.oid, request.user or "")
            repo.refs[revision] = [*history, head]
        pull = f"{self.web_url(repo)}/discussions/{revision.split('/')[-1]}" if new_pull else None
        url = f"{self.web_url(repo)}/commit/{head.oid}"
        return {"success": True, "commitOid": head.oid, "commitUrl": url, "hookOutput": "", "pullRequestUrl": pull}

    def change(self, repo: Repo, files: dict[str, bytes], key: str, value: dict[str, Any]) -> None:
        path = value["path"].rstrip("/")
        if key == "file":
            files[path] = b64decode(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in repo.storage:
                raise HubError(400, "An LFS pointer pointed to a file that does not exist")
            files[path] = repo.storage[value["oid"]]
        elif key in ("deletedFile", "deletedFolder"):
            gone = [path] * (path in files) if key == "deletedFile" else [n for n in files if n.startswith(f"{path}/")]
            if not gone:
                raise HubError(404, f"A {key[7:].lower()} with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"Unknown operation: {key}")

    @route("GET", "/api/{repo}(?:/revision/*)?", "read")  # the last route, for `{repo}` takes in names without a slash
    def info(self, request: Request, repo: Repo, revision: str | None) -> Any:
        history = repo.history(revision or "main")
        head, card = history[-1], front_matter(history[-1].files.get("README.md", b"").decode())
        entries = [{"lfs": None} | head.entry(path) for path in head.files]
        siblings = [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"], "lfs": e["lfs"]} for e in entries]
        tags = [*(card.get("tags") or []), *([f"license:{card['license']}"] if "license" in card else [])]
        about = {"id": repo.id, "author": repo.owner, "private": repo.private, "gated": False, "disabled": False}
        dates = {"createdAt": history[0].date, "lastModified": head.date}
        files = {"siblings": siblings} if self.lists_files else {}
        return about | dates | {"sha": head.oid, "cardData": card, "tags": tags} | files


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out in one piece
    hub: LocalHub

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # do_GET, do_POST, ...
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        answer = self.hub.serve(self.command, self.path, self.headers, self.read_body())
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size + 2)[:-2])
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may leave in the middle of an answer
            super().handle_error(request, client_address)
