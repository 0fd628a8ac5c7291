"""The server: routes, limits, and a page; what a clip says is the desk's matter.

    POST /v1/predict   a clip, as an upload or by its name in an allowed folder
    POST /v1/score     anybody's answers, as JSON Lines
    GET /healthz, /metrics, /docs, and the page at /

Limits that need no body hold before one is read. Local by default: other names are refused, so that
no page of elsewhere can ask through a visitor's browser.
"""

import asyncio
import hmac
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from socket import create_server, socket
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from limits import RateLimitItemPerMinute, storage, strategies
from prometheus_client import CollectorRegistry
from prometheus_fastapi_instrumentator import Instrumentator
from starlette.concurrency import run_in_threadpool
from starlette.middleware.base import DispatchFunction, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from affectgpt_r1 import __version__
from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import Mode
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation import scoring
from affectgpt_r1.evaluation.predict import Predictor
from affectgpt_r1.evaluation.report import environment, wheel_figures
from affectgpt_r1.media.worker import Guard
from affectgpt_r1.serve.desk import Desk
from affectgpt_r1.serve.limits import LOCAL, Limits

_NAME = "AffectGPT-R1"
_PATHS = ("/v1/predict", "/v1/score", "/metrics")
_JSON_LINES: dict[str, Any] = {"requestBody": {"content": {"application/x-ndjson": {"schema": {}}}}}


def create_app(
    predictor: Predictor,
    lexicon: Lexicon,
    limits: Limits,
    *,
    token: str | None = None,
    hosts: Sequence[str] = LOCAL,
) -> FastAPI:
    """Make the server.

    Args:
        predictor: the model that answers.
        lexicon: puts words on wheels, and scores.
        limits: what others may do.
        token: that a request must bear; None: anyone may ask.
        hosts: names that the server answers to; `*`: any.

    Raises:
        MissingFileError, ModelFolderError: the model's encoders cannot be loaded.
    """
    guard, site = Guard(limits.workers, limits.wall_s), Jinja2Templates(env=environment(lexicon))
    predictor.encoders.load()  # what is wrong with them is told before anyone asks

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as pools:
            app.state.desk = Desk(predictor, pools, guard, limits.max_duration_s)
            yield

    largest = limits.max_mib << 20
    app = FastAPI(title=_NAME, version=__version__, lifespan=lifespan, max_body_size=largest)
    for fault in (InputError, ClientDisconnect, TimeoutError):  # nobody hears the last two
        app.add_exception_handler(fault, _told)
    app.middleware("http")(_gate(limits, token))
    metrics = Instrumentator(excluded_handlers=["/metrics"], registry=CollectorRegistry())
    metrics.instrument(app).expose(app, include_in_schema=False)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.mount("/static", StaticFiles(packages=[(__package__, "static")]))

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> HTMLResponse:
        return site.TemplateResponse(request, "page.html", {"limits": limits, "token": bool(token)})

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Whether the server is there, and with which model."""
        return {"status": "ok", "model": predictor.signature}

    @app.post("/v1/predict")
    async def predict(
        request: Request,
        file: UploadFile | None = None,
        name: Annotated[str | None, Form(max_length=1000)] = None,
        subtitle: Annotated[str, Form(max_length=2000)] = "",
        mode: Annotated[Mode, Form()] = "answer",
    ) -> Response:
        """What a person in a clip feels; as the page's HTML where text/html is accepted."""
        html = "text/html" in request.headers.get("accept", "")
        async with asyncio.timeout(limits.request_s), _clip(file, name, limits.folder) as clip:
            answer, shown = await app.state.desk.ask(replace(clip, subtitle=subtitle), mode, html)
        answer["classes"] = {word: lexicon.classes(word) for word in answer["words"] or ()}
        if not html:
            return JSONResponse(answer)
        wheels = wheel_figures([((), answer["classes"])], lexicon, 1)
        facts = {"answer": answer, "shown": shown, "wheels": wheels}
        return site.TemplateResponse(request, "answer.html", facts)

    @app.post("/v1/score", openapi_extra=_JSON_LINES)
    async def score(
        request: Request,
        metric: scoring.Metric = "ew",
        level: Annotated[int | None, Query(ge=1, le=2)] = None,
    ) -> dict[str, Any]:
        """The score of answers: JSON Lines of `id`, `labels`, and `words` or `completion`."""
        rule = scoring.rule_of(None, metric, lexicon.name, level, None)
        desk: Desk = app.state.desk
        async with asyncio.timeout(limits.request_s):
            return await desk.guarded(scoring.score_of, await request.body(), rule, lexicon)

    return app


def bound(host: str, port: int) -> socket:
    """An address and port to listen at, taken before the model is loaded; port 0: a free one.

    Raises:
        InputError: they cannot be had.
    """
    try:
        return create_server((host, port))
    except (OSError, OverflowError) as error:
        why = str(error).partition(" (while")[0]
        told = f"cannot listen at {host}:{port} ({why}): name another --port, or --host"
        raise InputError(told) from None


def listen(app: FastAPI, at: socket, told: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; what is at work then is finished, for half a minute at most.

    Args:
        app: the server.
        at: as `bound` gives it.
        told: the address.
    """
    host, port = at.getsockname()
    told(f"http://{host}:{port}")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=30)
    uvicorn.Server(config).run([at])


async def _told(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 422)


def _gate(limits: Limits, token: str | None) -> DispatchFunction:
    """What refuses requests before anything of a body is kept."""
    hits = strategies.MovingWindowRateLimiter(storage.MemoryStorage())
    rate, open_now = RateLimitItemPerMinute(limits.per_minute), 0

    async def gate(request: Request, call_next: RequestResponseEndpoint) -> Response:
        nonlocal open_now
        if request.method not in ("GET", "HEAD", "POST"):
            request.scope["method"] = "OTHER"  # or the figures would have a line for each
        if request.url.path not in _PATHS:
            return await call_next(request)
        borne = request.headers.get("authorization", "").encode("latin-1")  # as it came
        kind = request.headers.get("content-type", "").lower()
        try:
            async with asyncio.timeout(limits.request_s):
                if not hits.hit(rate, request.client.host if request.client else ""):
                    status, why = 429, f"more than {limits.per_minute} requests a minute: wait"
                elif token and not hmac.compare_digest(borne, f"Bearer {token}".encode()):
                    status, why = 401, "send the server's token: Authorization: Bearer TOKEN"
                elif request.headers.get("sec-fetch-site") == "cross-site":
                    status, why = 403, "pages of elsewhere may not ask"
                elif "multipart" in kind and "charset" in kind:  # some take hours, or break texts
                    status, why = 415, "send the form as UTF-8, and name no charset"
                elif open_now >= limits.max_open:
                    status, why = 429, f"{limits.max_open} requests are at work: wait a second"
                else:
                    open_now += 1
                    try:
                        return await call_next(request)
                    finally:
                        open_now -= 1
                with suppress(ClientDisconnect):
                    async for _ in request.stream():
                        pass  # many clients cannot hear an answer while they still send
                return JSONResponse({"detail": why}, status, {"Retry-After": "1"})
        except TimeoutError:
            return JSONResponse({"detail": f"took longer than {limits.request_s:g} s"}, 408)

    return gate


@asynccontextmanager
async def _clip(
    file: UploadFile | None, name: str | None, folder: Path | None
) -> AsyncIterator[Clip]:
    """The clip that is asked about; an upload lies on disk as long as it is read.

    Faults do not tell where on this machine it lies.
    """
    if (file is None) == (name is None):
        raise HTTPException(422, "send either a file, or the name of one in the server's folder")
    with NamedTemporaryFile(prefix="affectgpt-r1-") as kept:
        if file is None:
            path = _within(folder, str(name))
        else:
            name, path = Path(file.filename or "upload").stem[:100], Path(kept.name)
            await run_in_threadpool(shutil.copyfileobj, file.file, kept)
            kept.flush()
        try:
            yield Clip(str(name), video=path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), "the clip")) from None


def _within(folder: Path | None, name: str) -> Path:
    """A file in a folder, by its name; nothing outside, whatever the name says."""
    if folder is not None:
        with suppress(OSError, ValueError):
            path = (folder / name).resolve(strict=True)
            if path.is_relative_to(folder.resolve()) and path.is_file():
                return path
    raise HTTPException(404, "no such file is in the server's folder")
