"""What the page asks beside predictions: which region mattered, what token-mixing units did, what a shuffle does."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import torch
from fastapi import APIRouter, Query, Request

from mixonomy.predicting import Classes, answers_of
from mixonomy.serve.engine import Engine
from mixonomy.serve.explain import occluded, png_uri, token_units, windows
from mixonomy.serve.images import Refused, Upload
from mixonomy.serve.schemas import ClassProb, Occlusion, Shuffled, TokenUnit, TokenUnits

MAX_AT_ONCE = 4  # explanations that run or wait; each takes as long as many predictions
MAX_SEED = 10_000
Share = Annotated[float, Query(ge=0.0, le=1.0, allow_inf_nan=False)]


def explain_routes(
    router: APIRouter,
    engine: Engine,
    read: Callable[[Request], Awaitable[list[Upload]]],
    body: dict[str, Any],
    responses: dict[int | str, dict[str, Any]],
) -> None:
    """Adds the three routes.

    Args:
      read: the one image of a request.
      body, responses: for the OpenAPI description.
    """
    running = 0

    async def image_of(request: Request) -> torch.Tensor:
        """uint8 [c, H, W]."""
        (upload,) = await read(request)
        await engine.check(upload)
        return await engine.prepare(upload)

    class OneOfFew:
        """Counts an explanation while it runs."""

        def __enter__(self) -> None:
            nonlocal running
            if running >= MAX_AT_ONCE:
                raise Refused(429, f"{running} explanations are being computed; try again in 2 s.", 2)
            running += 1

        def __exit__(self, *_: object) -> None:
            nonlocal running
            running -= 1

    @router.post("/v1/occlusion", openapi_extra=body, responses=responses, tags=["explanations"])
    async def occlusion(request: Request) -> Occlusion:
        """How the probability of the likeliest class falls when parts of the image are greyed, one after another."""
        with OneOfFew():
            pixels = await image_of(request)
            predictor, patch_size = engine.predictor, engine.facts["patch_size"]
            plain = (await engine.in_model_thread(lambda: predictor(pixels[None])))[0]
            best = int(plain.argmax())
            rows, columns, places = windows(tuple(pixels.shape[1:]), patch_size)  # type: ignore[arg-type]
            drops: list[float] = []
            for chunk in occluded(pixels, places):  # others are answered between two chunks
                probs = await engine.in_model_thread(lambda chunk=chunk: predictor(chunk))
                drops += (plain[best] - probs[:, best]).tolist()
        ((((name, prob),), _),) = answers_of(plain[None], engine.info, 1)
        return Occlusion(
            class_name=name,
            prob=prob,
            rows=rows,
            columns=columns,
            drops=[round(drop, 6) for drop in drops],
            seen=png_uri(pixels),
        )

    @router.post("/v1/token-units", openapi_extra=body, responses=responses, tags=["explanations"])
    async def units(request: Request, block: Annotated[int, Query(ge=0)] = 0) -> TokenUnits:
        """The hidden units of one block's token-mixing MLP that were most active on an image; of a Mixer only."""
        with OneOfFew():
            pixels = await image_of(request)
            count = engine.facts["num_token_mlps"]
            if block >= count:
                raise Refused(422, f"block is {block}; this model has {count} blocks of token-mixing units.")
            found = await engine.in_model_thread(lambda: token_units(engine.model, engine.predictor, pixels, block))  # type: ignore[arg-type]
        rows, columns = engine.facts["grid"]
        return TokenUnits(
            block=block,
            num_blocks=count,
            rows=rows,
            columns=columns,
            units=[TokenUnit(**vars(unit)) for unit in found],
        )

    @router.post("/v1/shuffle", openapi_extra=body, responses=responses, tags=["explanations"])
    async def shuffle(
        request: Request,
        patches: Share = 0.0,
        pixels: Share = 0.0,
        seed: Annotated[int, Query(ge=0, le=MAX_SEED)] = 0,
        top: Annotated[int, Query(ge=1, le=10)] = 3,
    ) -> Shuffled:
        """Classifies an image whose patches, or the pixels in each patch, are shuffled: all of them or a share.

        Where the model can be converted, `mixonomy.permuted` puts its weights into the same order, and the answer
        of that model to the shuffled image is the original's to the plain one.
        """
        with OneOfFew():
            plain = await image_of(request)
            shuffler = engine.shuffler
            shown = shuffler.shuffled(plain, patches, pixels, seed)
            original = await engine.in_model_thread(lambda: engine.predictor(shown[None]))
            converted = None
            if engine.facts["can_be_permuted"]:
                converted = await engine.in_model_thread(lambda: shuffler.converted(patches, pixels, seed)(shown[None]))
        return Shuffled(
            seen=png_uri(shown),
            original=_objects(original, engine, top),
            converted=None if converted is None else _objects(converted, engine, top),
        )


def _objects(probs: torch.Tensor, engine: Engine, top: int) -> list[ClassProb]:
    ((classes, _),) = answers_of(probs, engine.info, top)
    found: Classes = classes
    return [ClassProb(name=name, prob=prob) for name, prob in found]
