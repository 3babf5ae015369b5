"""The HTTP interface: who may ask, what is taken, in which order it is refused, and what is answered."""

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mixonomy import __version__
from mixonomy.predicting import Classes
from mixonomy.serve.around import Around, ms, problem
from mixonomy.serve.engine import Engine, Outcome
from mixonomy.serve.images import Refused, Upload, uploads_of
from mixonomy.serve.metrics import Metrics
from mixonomy.serve.page import explain_routes
from mixonomy.serve.schemas import (
    ClassProb,
    ImageResult,
    Limits,
    ModelDescription,
    Predictions,
    Preprocess,
    Problem,
    Status,
    Timing,
)
from mixonomy.serve.settings import Settings

MAX_TOP = 1000
STATIC = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/static/page.css": ("page.css", "text/css; charset=utf-8"),
    "/static/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/static/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
}
IMAGE = {"type": "string", "format": "binary"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": {"type": "array", "items": IMAGE}}}
            },
            "application/octet-stream": {"schema": IMAGE},
            "image/jpeg": {"schema": IMAGE},
            "image/png": {"schema": IMAGE},
        },
    }
}
REASONS = {
    400: "not a request that can be read",
    401: "no key, or a wrong one",
    403: "from a page of another site",
    408: "the body did not arrive in time",
    413: "too many bytes, pixels or images",
    415: "not an image, or not of a known format",
    421: "not a name of this server",
    422: "an image or a parameter that is not usable",
    429: "the queue is full; see Retry-After",
    503: "loading, stopping, or out of memory for bodies; see Retry-After",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Of these, as OpenAPI describes them."""
    return {status: {"model": Problem, "description": REASONS[status]} for status in statuses}


ALWAYS = problems(400, 421)
WITH_KEY = {**ALWAYS, **problems(401)}
WITH_IMAGE = {**WITH_KEY, **problems(403, 408, 413, 415, 422, 429, 503)}


def create_app(engine: Engine, settings: Settings, metrics: Metrics, *, has_page: bool = True) -> FastAPI:
    """The application for an engine.

    Args:
      has_page: whether / shows the page; /docs is there either way.
    """
    app = FastAPI(
        title="mixonomy",
        version=__version__,
        summary="Image classification.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.engine, app.state.settings = engine, settings
    check_key = _key_check(settings)
    guarded = APIRouter(dependencies=[Depends(check_key)])

    @guarded.post("/v1/predict", openapi_extra=BODY, responses=WITH_IMAGE, tags=["predictions"])
    async def predict(request: Request, top: Annotated[int, Query(ge=1, le=MAX_TOP)] = 5) -> Predictions:
        """Classifies one image (the body itself) or several (files of a form), in order.

        Among several, one that cannot be read has an `error` in place of classes; if none can be read, the answer is
        the first one's error.
        """
        begun = time.perf_counter()
        outcomes = await predict_body(request, engine, settings, top)
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        metrics.images.labels("answered").inc(len(outcomes) - len(errors))
        metrics.images.labels("unreadable").inc(len(errors))
        if len(errors) == len(outcomes):
            raise errors[0]
        return Predictions(
            model=engine.name,
            predictions=[_result(outcome) for outcome in outcomes],
            total_ms=ms(time.perf_counter() - begun),
        )

    @guarded.get("/v1/model", responses={**WITH_KEY, **problems(503)}, tags=["predictions"])
    async def model() -> ModelDescription:
        """The model that answers: its classes, how images are prepared, what is taken."""
        engine.check_ready()
        return _description(engine, settings)

    @guarded.get("/metrics", responses=WITH_KEY, response_class=Response, tags=["operation"])
    async def read_metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    explain_routes(guarded, engine, lambda request: read_uploads(request, engine, settings, 1), BODY, WITH_IMAGE)
    app.include_router(guarded)

    @app.get("/healthz", responses=ALWAYS, tags=["operation"])
    async def healthz() -> Status:
        """Whether the process lives."""
        return Status(status="ok")

    @app.get("/readyz", responses={**ALWAYS, 503: {"model": Status}}, tags=["operation"])
    async def readyz(response: Response) -> Status:
        """Whether images are answered: 503 while the model loads, and once the server stops."""
        if engine.is_ready and not engine.is_draining:
            return Status(status="ready")
        response.status_code = 503
        response.headers["retry-after"] = "5"
        return Status(status="stopping" if engine.is_draining else "loading")

    for path, (name, kind) in STATIC.items():
        if has_page or path not in ("/", "/static/page.js"):
            app.add_api_route(path, _file(name, kind), include_in_schema=False)

    _handle_errors(app)
    app.add_middleware(Around, settings=settings, metrics=metrics, is_last=lambda: engine.is_draining)
    return app


async def predict_body(request: Request, engine: Engine, settings: Settings, top: int) -> list[Outcome]:
    """The answers to a request's images; what is wrong with the images is found before the queue or the model is asked.

    Raises:
      Refused: if the request itself is.
    """
    uploads = await read_uploads(request, engine, settings, settings.max_images)
    request.state.images = len(uploads)
    outcomes: list[Outcome | None] = [None] * len(uploads)
    good: list[tuple[int, Upload]] = []
    for number, upload in enumerate(uploads):
        try:
            await engine.check(upload)
            good.append((number, upload))
        except Refused as error:
            outcomes[number] = Outcome(upload.name, error=error)
    if good:
        answers = await engine.predict([upload for _, upload in good], top)
        for (number, _), answer in zip(good, answers, strict=True):
            outcomes[number] = answer
    return [outcome for outcome in outcomes if outcome is not None]


async def read_uploads(request: Request, engine: Engine, settings: Settings, max_images: int) -> list[Upload]:
    """The images of a request, read within the limits of bytes; the request's memory is given back with its answer.

    Raises:
      Refused: with 413 if it is too large, 503 if there is no room for it now, 4xx if it is no form.
    """
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isdecimal() else 0
    if announced > settings.max_body_bytes:
        raise _too_large(settings)
    if engine.is_ready:
        engine.check_room(1)  # before the body is read, so that overload costs little
    engine.check_bytes(announced)
    held = _Held(request, engine)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > settings.max_body_bytes:
            raise _too_large(settings)
        held.take(len(chunk))
        chunks.append(chunk)
    body, kind = b"".join(chunks), request.headers.get("content-type", "")
    chunks.clear()
    return await engine.off_the_loop(lambda: uploads_of(body, kind, max_images=max_images), body)


class _Held:
    """The bytes that one request holds of the engine's room; see `Around`."""

    def __init__(self, request: Request, engine: Engine):
        self.engine, self.bytes = engine, 0
        request.state.held = self

    def take(self, count: int) -> None:
        self.engine.reserve(count)
        self.bytes += count

    def release(self) -> None:
        self.engine.release(self.bytes)
        self.bytes = 0


def _too_large(settings: Settings) -> Refused:
    return Refused(413, f"the request is larger than {settings.max_body_bytes:,} bytes; send smaller or fewer images.")


def _key_check(settings: Settings) -> Callable[[Request], Awaitable[None]]:
    """Compares the key of a request with all that are allowed, each time for as long."""
    allowed = [hashlib.sha256(key.encode()).digest() for key in settings.api_keys]

    async def check(request: Request) -> None:
        if not allowed:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("utf-8", "replace")).digest()
        matches = [hmac.compare_digest(given, each) for each in allowed]
        if kind.lower() != "bearer" or not any(matches):
            raise Refused(401, "no key or a wrong one; send the header Authorization: Bearer KEY.")

    return check


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return problem(error.status, str(error), error.retry_s)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()[0]
        return problem(422, f"{found['loc'][-1]}: {found['msg'].lower()}.")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        response = problem(error.status_code, f"{str(error.detail).lower()}; /docs shows what there is.")
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> JSONResponse:
        return problem(400, "the client went away.")


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = files("mixonomy.serve").joinpath("static", name).read_bytes()

    async def send() -> Response:
        return Response(content, headers={"content-type": kind, "cache-control": "no-cache"})

    return send


def _description(engine: Engine, settings: Settings) -> ModelDescription:
    preprocessing = engine.info.preprocessing
    return ModelDescription(
        name=engine.name,
        version=__version__,
        architecture=engine.info.arguments,
        class_names=list(engine.info.class_names),
        is_multilabel=engine.info.is_multilabel,
        preprocessing=Preprocess(**asdict(preprocessing)),
        path=engine.path,
        max_batch=engine.max_batch,
        limits=Limits(
            max_images=settings.max_images,
            max_body_bytes=settings.max_body_bytes,
            max_pixels=settings.max_pixels,
        ),
        **engine.facts,
    )


def _result(outcome: Outcome) -> ImageResult:
    if outcome.error is not None:
        return ImageResult(name=outcome.name, error=str(outcome.error))
    timing = Timing(
        decode=ms(outcome.decode_s),
        wait=ms(outcome.wait_s),
        model=ms(outcome.model_s),
        batch_size=outcome.batch_size,
    )
    return ImageResult(
        name=outcome.name,
        classes=as_objects(outcome.classes),
        predicted=as_objects(outcome.predicted),
        timing_ms=timing,
    )


def as_objects(classes: Classes) -> list[ClassProb]:
    """Names with probabilities, as JSON has them."""
    return [ClassProb(name=name, prob=prob) for name, prob in classes]
