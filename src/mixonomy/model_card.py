"""The model card: README.md beside published weights, made of the run's facts alone."""

import json
import re
from dataclasses import dataclass
from typing import Any

from mixonomy import __version__
from mixonomy.models import ModelInfo

MAX_CLASSES = 200  # named in the card; config.json names all
MEASURES = {
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "map": "mean average precision",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "exact": "images with exactly the right labels",
    "nll": "negative log-likelihood, nats",
    "ece": "expected calibration error",
}
CROPS = {
    "resmall": "the shorter side is made {resize:.4g} times the image size, and the centre cut out",
    "resize": "the whole image is stretched to {resize:.4g} times the image size, and the centre cut out",
    "squash": "the whole image is stretched to the image size",
    "pad": "the whole image is brought into the image size, its shape kept, with grey bars",
}


@dataclass(frozen=True)
class Facts:
    """What a card says.

    Args:
      name: of the model.
      repo: "owner/name" on the hub; None for a folder.
      params: number of parameters.
      info: of the model.
      licence: the hub's short name.
      recipe, result: of the run, as run.json and result.json have them; None for a model without its run.
      timm: its architecture in timm; None where timm has none.
      reason: why timm has none.
    """

    name: str
    repo: str | None
    params: int
    info: ModelInfo
    licence: str | None = None
    recipe: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    timm: str | None = None
    reason: str = ""


def model_card(facts: Facts) -> str:
    """The text of README.md, with the header that the hub reads."""
    tags = ["image-classification", "mixonomy", *(["timm"] if facts.timm else [])]
    header = ["---", *([f"license: {facts.licence}"] if facts.licence else [])]
    header += [f"library_name: {'timm' if facts.timm else 'mixonomy'}", "pipeline_tag: image-classification", "tags:"]
    header += [*(f"- {tag}" for tag in tags), "---", ""]
    parts = [_summary(facts), _use(facts), _scores(facts), _training(facts), _classes(facts), _preprocessing(facts)]
    parts.append("## Licence\n\n" + (facts.licence or "None was named; ask whoever published this model."))
    return "\n".join(header) + "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _summary(facts: Facts) -> str:
    info = facts.info
    kind = "several classes for an image" if info.is_multilabel else "one class for each image"
    data = "" if info.trained_on is None else f" Trained on {_code(info.trained_on.source)}."
    return (
        f"# {_plain(facts.name)}\n\nAn image classifier, {kind}: {_code(str(info.arguments['name']))}, "
        f"{facts.params:,} parameters, {info.arguments['num_classes']:,} classes.{data} Written by mixonomy "
        f"{__version__}."
    )


def _use(facts: Facts) -> str:
    where = f"hf:{facts.repo}" if facts.repo else "FOLDER"
    lines = ["## How to load", "", "```python", "import mixonomy as mx", "", f'model = mx.load("{where}")']
    lines += ['print(list(mx.predict(model, ["photo.jpg"])))', "```", ""]
    if facts.timm:
        source = f"hf-hub:{facts.repo}" if facts.repo else "local-dir:FOLDER"
        lines += ["or, the same weights in timm:", "", "```python", "import timm", ""]
        lines += [f'model = timm.create_model("{source}", pretrained=True).eval()', "```"]
    else:
        lines += [f"timm cannot read it: {_plain(facts.reason)}."]
    return "\n".join(lines)


def _scores(facts: Facts) -> str:
    if facts.result is None:
        return "## Scores\n\nNone are known of this file: it was published without its run."
    result = facts.result
    rows = [f"| {text} | {result[key]:.4f} |" for key, text in MEASURES.items() if isinstance(result.get(key), float)]
    head = f"On the {result['split']} split of {_code(str(result['data']))}, {result['n']:,} images, scored once:"
    temperature = facts.info.temperature
    note = "" if temperature == 1.0 else f"\n\nLog-probabilities are divided by the temperature {temperature:.4g}."
    return f"## Scores\n\n{head}\n\n| measure | value |\n| --- | --: |\n" + "\n".join(rows) + note


def _training(facts: Facts) -> str:
    if facts.recipe is None or facts.result is None:
        return ""
    cost = (
        f"{facts.result['steps']:,} steps, {facts.result['seconds']:,.0f} s of training, seed {facts.result['seed']}."
    )
    return f"## Training\n\n{cost} The whole recipe:\n\n```json\n{json.dumps(facts.recipe, indent=1)}\n```"


def _classes(facts: Facts) -> str:
    names = facts.info.class_names
    if not names:
        return "## Classes\n\nTheir names are not known; answers are numbers."
    shown = ", ".join(_plain(name) for name in names[:MAX_CLASSES])
    more = f", and {len(names) - MAX_CLASSES:,} more in config.json" if len(names) > MAX_CLASSES else ""
    return f"## Classes\n\nIn label order: {shown}{more}."


def _preprocessing(facts: Facts) -> str:
    prepared = facts.info.preprocessing
    height, width = prepared.image_size
    colours = "RGB" if prepared.channels == 3 else "grey"
    crop = CROPS[prepared.crop].format(resize=prepared.resize)
    return (
        f"## Preprocessing\n\n{height} x {width} pixels, {colours}; {crop} (bilinear, antialiased). Pixels in [0, 1], "
        f"less the mean {_listed(prepared.mean)}, over the deviation {_listed(prepared.std)}."
    )


def _listed(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _plain(text: str) -> str:
    """Text in which no character means something to Markdown or HTML."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"([\\`*_{}\[\]<>()#|])", r"\\\1", text)


def _code(text: str) -> str:
    """Text as code, on one line."""
    return "`" + "".join(c if c.isprintable() and c != "`" else " " for c in text) + "`"
