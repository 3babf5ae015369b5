"""The typed description of one experiment: everything that decides its numbers, and nothing else.

A recipe is frozen, knows all its keys (another one is an error) and survives JSON unchanged. Fields whose
default is None belong to one choice only; giving them beside another choice is an error, not a silence.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixonomy.choices import (
    Activation,
    BadImagePolicy,
    Gelu,
    Init,
    Loss,
    Pool,
    PrecisionOrAuto,
    Schedule,
    Stem,
)
from mixonomy.durations import Duration, Length
from mixonomy.preprocessing import EvalCrop

Share = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
NO_WEIGHTS = "WEIGHTS"  # in a recipe for fine-tuning: stands for those that --init names


class Section(BaseModel):
    """Base of all parts of a recipe: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    CHOICE: ClassVar[str] = ""
    """The field whose value decides which others are read."""
    READ_BY: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Field -> the values of CHOICE that read it; with no other may it be given. Empty: each reads it in its way."""
    SILENCES: ClassVar[dict[tuple[str, str], dict[str, Any]]] = {}
    """(field, value in words) -> fields that nothing reads then, and their values of no effect; see `changed`."""
    RIVALS: ClassVar[dict[str, str]] = {}
    """Field that is 0 where it is off -> another one that is off where it is on."""

    @classmethod
    def unread(cls, choice: str) -> list[str]:
        """The fields that go back to None where another choice becomes this one."""
        return [field for field, readers in cls.READ_BY.items() if choice not in readers]

    @model_validator(mode="after")
    def _nothing_is_ignored(self):
        for field, readers in self.READ_BY.items():
            if getattr(self, field) is not None and readers and self._reader() not in readers:
                belongs, chosen = " and ".join(readers), getattr(self, self.CHOICE)
                raise ValueError(f"{field} has no effect with {self.CHOICE}={chosen}; it belongs to {belongs}")
        return self

    def _reader(self) -> str:
        """What stands in READ_BY for the choice: the choice itself."""
        return getattr(self, self.CHOICE)


class Model(Section):
    """Which model. Sizes that are not given come from the name's table."""

    CHOICE = "name"
    READ_BY = {  # by family, the first word of a name
        "patch_size": (),
        "hidden_dim": (),
        "num_blocks": (),
        "tokens_mlp_dim": ("mixer",),
        "channels_mlp_dim": ("mixer", "vit", "resmlp", "gmlp", "pool", "dwconv"),
        "num_heads": ("vit",),
        "pool": ("vit",),
        "kernel_size": ("convmixer", "pool", "dwconv"),
        "activation": ("convmixer",),
    }

    OF_TRAINING: ClassVar[tuple[str, ...]] = ("dropout", "drop_path")
    """Fields that decide how a model is trained, not what it is."""

    name: str = "mixer"
    """A name from `mixonomy list models`, a family such as "mixer" or "vit" with its sizes given, or timm:NAME for any
    model of timm."""
    patch_size: Count | None = None
    """P, in pixels."""
    hidden_dim: Count | None = None
    """C, channels of a token."""
    num_blocks: Count | None = None
    """Number of blocks."""
    tokens_mlp_dim: Count | None = None
    """D_S, width of the token MLP."""
    channels_mlp_dim: Count | None = None
    """D_C, width of the channel MLP."""
    num_heads: Count | None = None
    """For vit: heads of self-attention."""
    pool: Pool | None = None
    """For vit: features from a class token, or the mean over tokens."""
    kernel_size: Count | None = None
    """For convmixer, pool and dwconv: side of the window, in patches."""
    activation: Activation | None = None
    """For convmixer."""
    gelu: Gelu | None = None
    """tanh as in Google's weights, erf as in timm's; if not given, tanh for mixer and vit, else erf."""
    init: Init | None = None
    """Whose initial weights: flax is LeCun-normal, timm is Xavier-uniform; flax if not given."""
    stem: Stem | None = None
    """For timm:NAME: small keeps the size of the image in the first layers, imagenet is timm's own; auto, if not given,
    takes small up to 64 pixels where it is known."""
    width_factor: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """For timm's ResNets, BoTNets, HaloNets, RegNetZs and NFNets: times the channels, such as 0.25 for a small one."""
    dropout: Share = 0.0
    """Probability inside the MLPs; of timm:NAME before the head."""
    drop_path: Share = 0.0
    """Stochastic depth: probability in the last block, growing linearly from 0 in the first; timm:NAME has its own
    rule."""
    head_bias: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Initial bias of the head; -ln(classes) suits the sigmoid loss."""

    @classmethod
    def unread(cls, choice: str) -> list[str]:
        """Sizes belong to a name; stem and width factor to timm's models, GELU and initial weights to ours."""
        return [*cls.READ_BY, *(("gelu", "init") if choice.startswith("timm:") else ("stem", "width_factor"))]

    def _reader(self) -> str:
        """The family."""
        return self.name.split("-")[0]


class Data(Section):
    """Which images, and how they are cut for evaluation."""

    CHOICE = "eval_crop"
    READ_BY = {"eval_resize": ("resmall", "resize")}
    SILENCES = {("on_bad_image", "error"): {"max_bad_share": None}}

    source: str = "digits"
    """digits, a known name, a folder of class folders, a .csv or .parquet file, PREFIX of PREFIX_train.parquet,
    hf:OWNER/NAME or shards:WHERE; `mixonomy list data` explains them."""
    val_share: Share = 0.1
    """Share of train held out for validation where the source has no validation split; 0 holds out nothing."""
    train_images: Count | None = None
    """Train on so many images only, those of `val_share` among them: of train and val together the ones whose hashed
    names come first."""
    train_on_val: bool = False
    """Train on the validation images too, and let nothing choose: what is done once all choices are made."""
    eval_crop: EvalCrop = "resmall"
    """resmall: shorter side, then centre; resize: whole image stretched, then centre; squash: stretched, no crop;
    pad: whole image, its shape kept, with grey bars."""
    eval_resize: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] | None = None
    """For resmall and resize: intermediate size as a multiple of the image size; 256/224 if not given."""
    on_bad_image: BadImagePolicy = "error"
    """What to do about images that cannot be read: stop, or leave them out, counted and named."""
    max_bad_share: Probability | None = None
    """For on_bad_image=skip: largest share of all images that may be left out; 0.01 if not given."""

    @model_validator(mode="after")
    def _share_is_read(self):
        if self.max_bad_share is not None and self.on_bad_image == "error":
            raise ValueError("max_bad_share has no effect with on_bad_image=error; it belongs to skip")
        return self


class Augment(Section):
    """What happens to a training image. Mixup and cutmix mix the labels too."""

    CHOICE = "crop"
    READ_BY = {"pad": ("pad",), "min_area": ("inception",)}
    SILENCES = {("randaugment_layers", "0"): {"randaugment_magnitude": None}}
    RIVALS = {"mixup": "cutmix_prob", "cutmix_prob": "mixup"}

    crop: Literal["none", "pad", "resmall", "inception"] = "none"
    """none: the evaluation crop; pad: shift by up to `pad` pixels; resmall: shorter side 256/224 of the image size,
    then a random window; inception: random box, stretched."""
    pad: Count | None = None
    """For crop=pad: pixels on each side; 4 if not given."""
    min_area: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """For crop=inception: smallest share of the image's area; 0.05 if not given."""
    flip: bool = False
    """Mirror left to right with probability 0.5."""
    randaugment_layers: Annotated[int, Field(ge=0)] = 0
    """RandAugment operations per image, of big_vision's 16; 0 is off."""
    randaugment_magnitude: Annotated[int, Field(ge=0, le=30)] | None = None
    """Strength of RandAugment on big_vision's scale, 0 to 30; 10 if not given."""
    erase_prob: Probability = 0.0
    """Probability of erasing a random box."""
    mixup: NonNegative = 0.0
    """p of the Beta(p, p) from which a mixing weight is drawn, once per batch; 0 is off."""
    cutmix_prob: Probability = 0.0
    """Probability, per image, of pasting a box from another image."""

    @model_validator(mode="after")
    def _mixing_is_clear(self):
        if self.randaugment_magnitude is not None and self.randaugment_layers == 0:
            raise ValueError("randaugment_magnitude has no effect without randaugment_layers; give both or none")
        if self.mixup and self.cutmix_prob:
            raise ValueError("mixup and cutmix_prob are both on; choose one of them")
        return self


class Optim(Section):
    """The optimizer, its schedule and what is done to gradients and weights."""

    CHOICE = "name"
    READ_BY = {
        "lr": (),
        "rest_lr": ("muon",),
        "beta1": ("adamw", "muon"),
        "beta2": ("adamw", "muon"),
        "momentum": ("sgd", "muon"),
    }
    SILENCES = {("schedule", "constant"): {"end": 0.0}}

    name: Literal["adamw", "sgd", "muon"] = "adamw"
    """muon: torch's Muon for matrices and the patch embedding, AdamW for the rest."""
    lr: Positive | None = None
    """Peak learning rate (for muon: of the matrices); 1e-3 for adamw, 0.03 for sgd, 0.02 for muon if not given."""
    rest_lr: Positive | None = None
    """For muon: peak learning rate of what AdamW trains; 1e-3 if not given."""
    layer_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share d of the rate from layer to layer: block i of L gets d^(L - i) of it, the stem d^(L + 1), the head 1."""
    weight_decay: NonNegative = 0.0
    """Decoupled (for sgd: L2), on matrices and kernels only, times the learning rate."""
    beta1: Share | None = None
    """For adamw and muon's rest; 0.9 if not given."""
    beta2: Share | None = None
    """For adamw and muon's rest; 0.999 if not given."""
    momentum: Share | None = None
    """For sgd (0.9 if not given) and muon (0.95)."""
    schedule: Schedule = "linear"
    """Shape after the warm-up."""
    end: Share = 0.0
    """Final learning rate as a share of the peak (not for constant)."""
    warmup: Duration = "10 %"
    """Linear warm-up from 0: "10 %", "500 steps", "1 epochs" or "0 steps"; no longer than the training."""
    clip: Positive | None = None
    """Largest global norm of the gradient; no clipping if not given."""
    sam_rho: Positive | None = None
    """Radius of sharpness-aware minimisation (SAM), 0.05 to 0.2 as a rule; each step costs two. Off if not given."""
    accumulate: Count = 1
    """Pieces that a batch is computed in; needs less memory, gives the same step (but for dropout and BatchNorm)."""
    checkpoint_blocks: bool = False
    """Activation checkpointing: blocks keep only their input for the backward pass and compute the rest again; needs
    less memory and more time, gives the same step. Not for models with BatchNorm."""
    shard: bool = False
    """Under torchrun each rank keeps its share of weights, gradients and the optimizer's state only (FSDP2): less
    memory, more to send. Not for models with BatchNorm."""
    ema: Share = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated; 0 is off."""

    @model_validator(mode="after")
    def _end_is_read(self):
        if self.schedule == "constant" and self.end:
            raise ValueError("end has no effect with schedule=constant; leave it out")
        return self


class Probe(Section):
    """Few-shot accuracy on other data while training goes on, as in the paper's curves; changes no weights."""

    source: str | None = None
    """SOURCE of the other data; nothing is measured if not given."""
    every: Length | None = None
    """How often; at each evaluation if not given."""
    shots: tuple[Count, ...] | None = None
    """Images of each class; 1, 5, 10 and 25 if not given."""
    test_images: Count | None = None
    """Score so many of its test images only, the same ones each time; all if not given."""

    @model_validator(mode="after")
    def _source_is_given(self):
        for field in ("every", "shots", "test_images"):
            if self.source is None and getattr(self, field) is not None:
                raise ValueError(f"{field} has no effect without source, the data to measure on; give both")
        return self


class Recipe(Section):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")] = "custom"
    """Names the run folder."""
    data: Data = Data()
    model: Model = Model()
    init: Annotated[str, Field(min_length=1)] | None = None
    """Weights to start from, and with them the model: a run folder, a file, timm:NAME or hf:OWNER/NAME; its head
    becomes one of zeros for the classes of the data."""
    image_size: Count | tuple[Count, Count] | None = 224
    """Pixels: one number, or height and width; with init, None is the size that its weights are for."""
    tune: Literal["all", "head", "bias-norm"] = "all"
    """Which weights are trained: all; the head, on frozen features; the head, all biases and all that norms have
    (BitFit, with norms)."""
    freeze: Duration | None = None
    """Train nothing but the head for so long first, such as "100 steps" or "10 %"."""
    augment: Augment = Augment()
    optim: Optim = Optim()
    duration: Length = "10 epochs"
    """Length of training: "14 epochs", "500 steps" or "50000 examples"."""
    batch_size: Count = 256
    """Images per optimizer step."""
    loss: Loss | Literal["auto"] = "auto"
    """sigmoid: one yes/no question per class, summed over classes (big_vision's choice for ImageNet). auto: softmax, or
    sigmoid where an image may have several classes."""
    balance: Literal["none", "loss", "sampling"] = "none"
    """For classes of unequal size. loss: rare ones weigh more; sampling: every class comes equally often."""
    label_smoothing: Share = 0.0
    """Share of a label's weight that is spread over all classes."""
    eval_every: Length = "1 epochs"
    """How often validation data is scored (and always at the end)."""
    probe: Probe = Probe()
    early_stop: Length | None = None
    """Stop when validation data has not scored better for so long, such as "5 epochs"; never if not given."""
    keep: Literal["best", "last"] = "best"
    """Which weights the run ends with: best on validation data, or the last."""
    precision: PrecisionOrAuto = "auto"
    """auto: bf16 autocast where the device computes it natively, else fp32 (on a GPU with TF32 products)."""
    compile: bool = False
    """Compile the model with torch.compile; needs a C++ compiler on a CPU."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of initial weights, order and augmentation; the same seed gives the same run."""

    @property
    def height_width(self) -> tuple[int, int]:
        """The image size as (height, width); only where the recipe gives one."""
        assert self.image_size is not None, "the weights in init have it"
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @model_validator(mode="after")
    def _weights_say_what_the_model_is(self):
        if self.init is None:
            if self.image_size is None:
                raise ValueError("image_size is None, the size of the weights in init, and there is no init; give one")
            return self
        given = [name for name in Model.model_fields if getattr(self.model, name) != getattr(Model(), name)]
        if given := [name for name in given if name not in Model.OF_TRAINING]:
            why = "whose head becomes one of zeros" if given == ["head_bias"] else "whose weights say what the model is"
            raise ValueError(f"model.{given[0]} has no effect with init, {why}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _something_is_frozen_and_trained(self):
        if self.tune == "head":
            if self.freeze is not None:
                raise ValueError("freeze has no effect with tune=head, which freezes all but the head; leave it out")
            if self.optim.layer_decay is not None:
                raise ValueError("layer_decay has no effect with tune=head, which trains one layer; leave it out")
            if self.optim.checkpoint_blocks:
                raise ValueError(
                    "checkpoint_blocks has no effect with tune=head, which keeps nothing of the blocks; leave it out"
                )
        if self.optim.name == "muon" and (self.tune != "all" or self.freeze is not None):
            what = f"tune={self.tune}" if self.tune != "all" else "freeze"
            raise ValueError(f"muon trains the matrices of the blocks, which {what} leaves frozen; use adamw or sgd")
        return self

    @model_validator(mode="after")
    def _all_is_trained_in_shares(self):
        if self.optim.shard and (self.tune != "all" or self.freeze is not None):
            what = f"tune={self.tune}" if self.tune != "all" else "freeze"
            raise ValueError(f"shard saves memory where all weights are trained, and {what} freezes some; leave it out")
        return self

    @model_validator(mode="after")
    def _something_chooses(self):
        if self.data.train_on_val and self.early_stop is not None:
            raise ValueError("early_stop needs validation data, which train_on_val trains on; leave one of them out")
        return self

    @model_validator(mode="after")
    def _early_stop_keeps_the_best(self):
        if self.early_stop is not None and self.keep == "last":
            raise ValueError("early_stop waits for a better score, so it needs keep=best")
        return self

    @model_validator(mode="after")
    def _batch_divides(self):
        if self.batch_size % self.optim.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not divide into {self.optim.accumulate} equal pieces")
        return self


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """A copy with some fields changed; nested ones as `optim={"lr": 0.1}`. Validated like a new recipe.

    Where a choice changes, such as the name of the model or of the optimizer, fields that only the old choice
    reads (for a model: its sizes) go back to None, and what a new value silences, such as schedule=constant the final
    learning rate, to no effect. Where `init` is new, so does the whole model, which its
    weights bring. Of mixup and cutmix, which cannot both be on, the one given takes the other's place.
    """
    values = recipe.model_dump()
    if recipe.init is None and changes.get("init") is not None:
        values["model"] = Model().model_dump()
    for key, value in changes.items():
        old = getattr(recipe, key, None)
        if isinstance(old, Section) and isinstance(value, dict):
            choice = value.get(old.CHOICE, None)
            if choice is not None and choice != getattr(old, old.CHOICE):
                value = {**dict.fromkeys(old.unread(choice)), **value}
            for (field, silencing), silenced in old.SILENCES.items():
                if str(value.get(field)) == silencing:
                    value = {**silenced, **value}
            value = {**{rival: 0 for field, rival in old.RIVALS.items() if _is_on(value.get(field))}, **value}
            value = {**values[key], **value}
        values[key] = value
    return Recipe.model_validate(values)


def _is_on(value: Any) -> bool:
    try:
        return float(value) > 0
    except (TypeError, ValueError):  # which validation explains
        return False


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Names the fields in which two dumped recipes differ, as "optim.lr (0.1 there, 0.2 now)"."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} ({a} there, {b} now)")
    return found
