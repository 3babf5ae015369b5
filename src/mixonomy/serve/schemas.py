"""What the server answers, as it stands in the OpenAPI description."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class ClassProb(BaseModel):
    """A class and its probability."""

    name: str
    prob: float


class Timing(BaseModel):
    """Milliseconds of one image."""

    decode: float = Field(description="from the bytes to what the model sees")
    wait: float = Field(description="for the model to be free, and for others to share a batch")
    model: float = Field(description="of its whole batch in the model")
    batch_size: int = Field(description="images in that batch")


class ImageResult(BaseModel):
    """One image: its likeliest classes, or why it could not be read."""

    name: str = Field(description="what the client called it")
    classes: list[ClassProb] = Field(default=[], description="the likeliest first")
    predicted: list[ClassProb] = Field(
        default=[], description="the likeliest class; of a model for several classes in an image those above their "
        "thresholds, possibly none"
    )  # fmt: skip
    timing_ms: Timing | None = None
    error: str | None = Field(default=None, description="why there are no classes")


class Predictions(BaseModel):
    """Answers in the order of the images."""

    model: str
    predictions: list[ImageResult]
    total_ms: float = Field(description="from the headers of the request to the answer")


class Preprocess(BaseModel):
    """How an image becomes what the model sees; the server does it."""

    image_size: tuple[int, int]
    channels: int
    crop: str
    resize: float
    mean: list[float]
    std: list[float]


class Limits(BaseModel):
    """What the server takes."""

    max_images: int
    max_body_bytes: int
    max_pixels: int


class ModelDescription(BaseModel):
    """The model that answers."""

    name: str
    version: str = Field(description="of mixonomy")
    architecture: dict[str, Any] = Field(description="arguments of mixonomy.create; empty where unknown")
    num_parameters: int
    num_classes: int
    class_names: list[str]
    is_multilabel: bool
    preprocessing: Preprocess
    path: str = Field(description="the way it is computed, such as `packed bf16`")
    max_batch: int
    grid: tuple[int, int] = Field(description="rows and columns of its patches")
    patch_size: int
    can_be_permuted: bool
    num_token_mlps: int = Field(description="blocks whose token-mixing units can be shown")
    limits: Limits


class Status(BaseModel):
    """Whether the process lives, or may be asked."""

    status: Literal["ok", "ready", "loading", "stopping"]


class Problem(BaseModel):
    """Why there is no answer."""

    error: str


class Occlusion(BaseModel):
    """How much of the probability of a class goes when a part of the image is greyed."""

    class_name: str
    prob: float
    rows: int
    columns: int
    drops: list[float] = Field(description="probability less that with the window around the cell greyed; by rows")
    seen: str = Field(description="the image as the model sees it, a PNG as a data URI")


class TokenUnit(BaseModel):
    """A hidden unit of a token MLP, the same for all channels."""

    index: int
    strength: float = Field(description="mean absolute activation, as a share of the strongest unit's")
    reads: list[list[float]] = Field(description="its weights over the places, -1 to 1")
    writes: list[list[float]] = Field(description="its weights back to the places, -1 to 1")
    takes: list[list[float]] = Field(description="what it took from each place of this image, 0 to 1")


class TokenUnits(BaseModel):
    """The most active units of one block."""

    block: int
    num_blocks: int
    rows: int
    columns: int
    units: list[TokenUnit]


class Shuffled(BaseModel):
    """One image with its parts in another order, and what two models make of it."""

    seen: str = Field(description="the shuffled image, a PNG as a data URI")
    original: list[ClassProb] = Field(description="by the model as it is")
    converted: list[ClassProb] | None = Field(
        description="by the model with its weights in the same order, mixonomy.permuted; null where there is none"
    )
