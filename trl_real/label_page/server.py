"""The server of the label page: `create_app` and `serve`."""

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..labeling.label_log import OTHER_SIDE, side_sha256
from ..labeling.queue import LabelQueue
from .accounts import Accounts
from .label_saver import LabelSaver
from .progress_view import ProgressView
from .rendering import task_for_page


logger = logging.getLogger(__name__)

COOKIE = "trl_real_session"
LOOPBACK = ("127.0.0.1", "localhost")
MAX_BODY = 16 * 1024
AHEAD = 3
STATIC = files(__package__) / "static"
# The site that shows a Space in a frame.
HUB = "https://huggingface.co"
# The page runs its own script and loads nothing from elsewhere, whatever the data say.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content).encode()  # in ASCII, since a request may hold what UTF-8 cannot


class _NotSavedError(Exception):
    """The label log cannot be written."""


@contextlib.contextmanager
def _saving() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _NotSavedError(error.strerror or error) from error


class LabelPage:
    """
    The routes of the server.

    Args:
        queue ([`LabelQueue`]):
            The pairs and the label log.
        accounts ([`Accounts`], *optional*):
            The annotators. If `None`, everyone who reaches the server is `annotator`.
        annotator (`str`, *optional*, defaults to `"annotator"`):
            Name of the annotator without accounts.
        saver ([`LabelSaver`], *optional*):
            Saves the label log to the Hub. Pass it only in a Space: the Hub then shows the page in a frame, with the cookies that
            this needs.
    """

    def __init__(
        self,
        queue: LabelQueue,
        accounts: Accounts | None = None,
        annotator: str = "annotator",
        saver: LabelSaver | None = None,
    ):
        self.queue = queue
        self.accounts = accounts
        self.saver = saver
        self.lead = annotator if accounts is None else accounts.lead
        self._progress = ProgressView(queue)

    def who(self, request: Request) -> str | None:
        """The annotator of a request, known from the session cookie only."""
        return self.lead if self.accounts is None else self.accounts.who(request.cookies.get(COOKIE, ""))

    async def page(self, request: Request) -> Response:
        return RedirectResponse("sign-in") if self.who(request) is None else _static("label.html")

    async def sign_in_page(self, request: Request) -> Response:
        return RedirectResponse(".") if self.who(request) is not None else _static("sign_in.html")

    async def sign_in(self, request: Request) -> Response:
        body = await _body(request, {"name": str, "password": str})
        session = None
        if self.accounts is not None:
            session = await run_in_threadpool(self.accounts.sign_in, body["name"], body["password"])
        if session is None:
            raise HTTPException(401, "The name or the password is wrong.")
        return self._with_cookie(request, session, 30 * 24 * 3600)

    async def sign_out(self, request: Request) -> Response:
        await _body(request, {})
        return self._with_cookie(request, "", 0)

    def _with_cookie(self, request: Request, session: str, max_age: int) -> Response:
        response = _Json({})
        in_frame = self.saver is not None
        response.set_cookie(
            COOKIE,
            session,
            max_age=max_age,
            httponly=True,
            secure=in_frame or request.url.scheme == "https",
            samesite="none" if in_frame else "strict",
        )
        if in_frame:  # kept for the site around the frame; Starlette can say so only from Python 3.14 on
            name, cookie = response.raw_headers.pop()
            response.raw_headers.append((name, cookie + b"; Partitioned"))
        return response

    async def task(self, request: Request) -> Response:
        return await run_in_threadpool(self._next, self._annotator(request))

    async def decide(self, request: Request) -> Response:
        annotator = self._annotator(request)
        body = await _body(request, {"pair_id": str, "first_sha256": str, "choice": str, "seconds": int | float})
        return await run_in_threadpool(self._decide, annotator, body)

    async def undo(self, request: Request) -> Response:
        annotator = self._annotator(request)
        await _body(request, {})
        return await run_in_threadpool(self._undo, annotator)

    async def saved(self, request: Request) -> Response:
        self._annotator(request)
        if self.saver is None:
            raise HTTPException(404, "Every decision is saved to the label log before it is answered.")
        return _Json(self.saver.saved()._asdict())

    async def progress_page(self, request: Request) -> Response:
        if self.who(request) is None:
            return RedirectResponse("sign-in")
        self._check_lead(request)
        return HTMLResponse(await run_in_threadpool(self._progress.html))

    async def progress_plot(self, request: Request) -> Response:
        self._check_lead(request)
        picture = await run_in_threadpool(self._progress.png)
        if picture is None:
            raise HTTPException(404, "There are too few labels for a plot.")
        return Response(picture, media_type="image/png")

    def _annotator(self, request: Request) -> str:
        annotator = self.who(request)
        if annotator is None:
            raise HTTPException(401, "You are signed out. Sign in again.")
        return annotator

    def _check_lead(self, request: Request) -> None:
        if self._annotator(request) != self.lead:
            raise HTTPException(403, f"Only {self.lead} can see the progress.")

    def _next(self, annotator: str, **more: Any) -> Response:
        task = self.queue.next_task(annotator)
        progress = self.queue.progress()
        return _Json(
            {
                "annotator": annotator,
                "is_lead": annotator == self.lead,
                "has_accounts": self.accounts is not None,
                "task": None if task is None else task_for_page(task),
                "mine": sum(progress.annotators.get(annotator, ())),
                "done": progress.done,
                "pairs": progress.pairs,
                "hub": None if self.saver is None else self.saver.saved()._asdict(),
                **more,
            },
            background=BackgroundTask(self._render_ahead, annotator),
        )

    def _render_ahead(self, annotator: str) -> None:
        """Render the next pairs while the annotator reads, so that they are in the cache when they are needed."""
        for task in self.queue.upcoming(annotator, AHEAD):
            task_for_page(task)

    def _decide(self, annotator: str, body: dict[str, Any]) -> Response:
        task = self.queue.task(annotator, body["pair_id"])
        first = task.shown_first
        if body["first_sha256"] != side_sha256(task._asdict()[f"response_{first}"]):
            raise HTTPException(
                409, "This pair has changed since it was shown. Your decision was not saved. Look at the pair again."
            )
        labels = {"first": first, "second": OTHER_SIDE[first], "tie": "tie", "skip": None}
        if body["choice"] not in labels:
            raise HTTPException(400, f"`choice` must be one of {list(labels)}, found {body['choice']!r:.60}.")
        with _saving():
            self.queue.record(annotator, task.pair_id, labels[body["choice"]], seconds=body["seconds"])
        return self._next(annotator)

    def _undo(self, annotator: str) -> Response:
        with _saving():
            undone = self.queue.undo(annotator)
        return self._next(annotator, undone=undone is not None)


def create_app(
    queue: LabelQueue,
    accounts: Accounts | None = None,
    annotator: str = "annotator",
    saver: LabelSaver | None = None,
) -> Starlette:
    """The page as an ASGI application; see [`LabelPage`]."""
    page = LabelPage(queue, accounts, annotator, saver)
    policy = POLICY if saver is None else f"{POLICY} {HUB}"
    middleware = [Middleware(_Headers, headers={**HEADERS, "Content-Security-Policy": policy})]
    # Otherwise, another site could resolve its name to this machine and label (DNS rebinding). The Hub guards a private Space itself.
    if accounts is None and saver is None:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK))
    return Starlette(
        routes=[
            Route("/", page.page),
            Route("/sign-in", page.sign_in_page),
            Route("/progress", page.progress_page),
            Route("/progress.png", page.progress_plot),
            Route("/api/task", page.task),
            Route("/api/saved", page.saved),
            Route("/api/decide", page.decide, methods=["POST"]),
            Route("/api/undo", page.undo, methods=["POST"]),
            Route("/api/sign-in", page.sign_in, methods=["POST"]),
            Route("/api/sign-out", page.sign_out, methods=["POST"]),
            Mount("/static", StaticFiles(directory=str(STATIC))),
        ],
        middleware=middleware,
        exception_handlers={
            HTTPException: _refused,
            ValueError: _wrong,
            _NotSavedError: _not_saved,
            OSError: _cannot,
            Exception: _failed,
        },
    )


def serve(app: Starlette, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve the page until the process is interrupted. `started` is called with the address."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:  # `OverflowError` if the port is out of range
        why = str(getattr(error, "strerror", error)).partition(" (while")[0].rstrip(".")
        raise OSError(f"`--host {host} --port {port}`: {why}. Choose another `--host` or `--port`.") from error
    started(f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}")
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


def _static(name: str) -> Response:
    return FileResponse(str(STATIC / name))


async def _body(request: Request, fields: dict[str, Any]) -> dict[str, Any]:
    """Read the JSON of a request with exactly these fields. A form on another site cannot send it."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON, as `application/json`.")
    text = b""
    async for block in request.stream():
        text += block
        if len(text) > MAX_BODY:
            raise HTTPException(413, f"The request is longer than {MAX_BODY} bytes.")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"The request is not JSON: {error}.") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "The request must be an object.")
    if unknown := sorted(body.keys() - fields.keys()):
        raise HTTPException(400, f"There is no field `{unknown[0]:.60}`. Who labels is known from the session.")
    for name, kinds in fields.items():
        if not isinstance(body.get(name), kinds) or isinstance(body[name], bool):
            raise HTTPException(400, f"The field `{name}` is missing or of another type.")
    return body


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail)


async def _wrong(request: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _not_saved(request: Request, error: Exception) -> Response:
    logger.error("%s", error.__cause__)
    return _error(507, f"Your last decision was not saved: {error}. Tell the person who runs this page.")


async def _cannot(request: Request, error: Exception) -> Response:
    logger.error("%s", error)
    return _error(500, f"{str(error).rstrip('.')}. Tell the person who runs this page.")


async def _failed(request: Request, error: Exception) -> Response:
    return _error(500, f"The server failed, and your last decision may not be saved: {type(error).__name__}.")


def _error(status: int, message: str) -> Response:
    return _Json({"error": message}, status)


class _Headers:
    """Adds headers to each response."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]):
        self.app = app
        self.headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self.headers]
            await send(message)

        await self.app(scope, receive, send_with_headers)
