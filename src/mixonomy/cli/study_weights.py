"""`mixonomy study weights`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import FlagCreatePairsOff, Positional

from mixonomy.cli.arguments import parse
from mixonomy.cli.study_training import check_rows_alone, command_of, rows_in, say

if TYPE_CHECKING:
    from torch import nn

    from mixonomy.report.weights_page import Looked

QUICK = ("mixer", "vit", "convmixer")  # what --quick trains
MOVED = 3  # units of each block that are shown for an image


@dataclass(frozen=True)
class StudyWeights:
    """Draws the token-mixing units and stem kernels of trained models, and says how far each of their blocks looks.

    Several models are compared block by block; token-mixing units have Mixer, ResMLP and gMLP.
    """

    models: Positional[list[str]] = field(default_factory=list)
    """Weights: run folders, files, timm:NAME or hf:OWNER/NAME."""
    names: tuple[str, ...] = ()
    """What the models are called in rows and on the page, one for each; their architectures if not given."""
    data: str | None = None
    """SOURCE of the images at which Jacobians are taken; each model's own data if not given, and random images where
    the weights name none."""
    image: Path | None = None
    """An image file: where each model looks in it (input gradient, occlusion), and which units it moves."""
    num_images: int = 16
    """Test images for the Jacobians."""
    num_probes: int = 16
    """Output places for each image and block."""
    quick: FlagCreatePairsOff[bool] = False
    """Train a small Mixer, ViT and ConvMixer on the embedded digits and take those, to see it work."""
    out: Path | None = None
    """Folder of the results; runs/study-weights if not given."""
    rows: Path | None = None
    """A .jsonl file of rows: write page and tables from these, without pictures."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    json: FlagCreatePairsOff[bool] = False
    """Print the result as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyWeights, argv, name="study weights")
    if (options.num_images < 1) or (options.num_probes < 1):
        raise ValueError("--num-images and --num-probes count what is looked at; give at least 1 of each.")
    given = sum([bool(options.models), options.quick, options.rows is not None])
    if given != 1:
        raise ValueError("give the weights to look at, such as runs/x, or --quick, or --rows FILE; one of them.")
    if options.rows is not None:
        check_rows_alone(options)
    number = len(QUICK if options.quick else options.models)
    if options.names and len(set(options.names)) != number:
        raise ValueError(f"{number} models have {len(set(options.names))} names; give one for each.")

    from mixonomy.models.files import write_atomically
    from mixonomy.report.study_page import write_study_page
    from mixonomy.report.weights_page import stems_section, units_section
    from mixonomy.rows import to_text
    from mixonomy.studies import weights
    from mixonomy.studies.study import check_results

    out = options.out or Path("runs/study-weights")
    check_results(weights.STUDY, out)
    sections, encoded = [], None if options.image is None else _encoded(options.image)
    if options.rows is not None:
        rows = rows_in(options.rows, weights.STUDY)
    else:
        from mixonomy.loading import load
        from mixonomy.rows import origin_of
        from mixonomy.runs import environment
        from mixonomy.stopping import Interrupted, stopped

        where = origin_of(environment(), "cpu", command_of("weights", argv))
        rows, models = [], {}
        try:
            places = options.models or _trained_quickly(out)
        except Interrupted as stop:
            return stopped(stop)
        for number, place in enumerate(places):
            model = load(place)
            name = options.names[number] if options.names else weights.label_of(model, str(place), list(models))
            models[name] = model
        for name, model in models.items():
            print(f"{name}: reading Jacobians", file=sys.stderr)
            images = weights.images_for(model, options.data, options.data_root, options.num_images)
            rows += weights.rows_of(name, model, images, where, num_probes=options.num_probes)
        if blocks := [block for name, model in models.items() for block in weights.unit_maps(name, model)]:
            sections.append(units_section(blocks))
        if stems := [found for name, model in models.items() for found in weights.stem_maps(name, model)]:
            sections.append(stems_section(stems))
        if encoded is not None:
            from mixonomy.report.weights_page import looked_section

            sections.append(looked_section([_looked(name, model, encoded) for name, model in models.items()]))
    found = weights.read(rows)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "rows.jsonl", to_text(rows).encode())
    write_study_page(out / f"{weights.STUDY}.html", found, rows, sections)
    say(weights.STUDY, out, found, rows, is_json=options.json)
    return 0


def _trained_quickly(out: Path) -> list[str]:
    """A small Mixer, ViT and ConvMixer, trained on the digits in OUT/runs unless they are there."""
    from mixonomy.progress import Console
    from mixonomy.recipe import changed
    from mixonomy.recipes import load_recipe
    from mixonomy.training import train

    mixer = changed(load_recipe("digits"), duration="20 epochs", eval_every="20 epochs")
    common = {"patch_size": 2, "hidden_dim": 64, "num_blocks": 4}
    vit = changed(mixer, model={"name": "vit", **common, "num_heads": 4, "channels_mlp_dim": 256, "pool": "mean"})
    convmixer = changed(mixer, model={"name": "convmixer", **common, "kernel_size": 3})
    places = []
    for name, recipe in zip(QUICK, (mixer, vit, convmixer), strict=True):
        places.append(str(out / "runs" / name))
        train(recipe, places[-1], console=Console(), command="mixonomy study weights --quick")
    return places


def _encoded(path: Path) -> bytes:
    """The bytes of an image file that can be decoded.

    Raises:
      ValueError: naming the file, if there is none or it is no image.
    """
    from mixonomy.data.decode import decode

    try:
        encoded = path.read_bytes()
        decode(encoded, 3)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); give an image file.") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return encoded


def _looked(name: str, model: "nn.Module", encoded: bytes) -> "Looked":
    """Where the model looks in an image."""
    from mixonomy.data.decode import decode
    from mixonomy.data.transforms import evaluation_crop
    from mixonomy.evals import normalise
    from mixonomy.evals.saliency import input_gradient, occlusion, token_unit_activity
    from mixonomy.models import info_of
    from mixonomy.report.weights_page import Looked
    from mixonomy.studies.maps import token_maps
    from mixonomy.studies.weights import occlusion_window, token_grid

    info = info_of(model)
    pixels = evaluation_crop(decode(encoded, info.preprocessing.channels), info.preprocessing)
    image = normalise(pixels[None], info.preprocessing)
    window = occlusion_window(model)
    probabilities = model(image).detach().softmax(1)[0]
    label = int(probabilities.argmax())
    names = info.class_names or tuple(str(i) for i in range(len(probabilities)))
    activity, grid, moved = token_unit_activity(model, image), token_grid(model), []
    maps = {} if grid is None else {layer.name: layer.units for layer in token_maps(model, grid)}
    for layer, by_image in activity.items():
        top = by_image[0].topk(min(MOVED, by_image.shape[1]))
        said = ", ".join(f"{value:.2f}" for value in top.values.tolist())
        moved.append((layer, maps[layer][top.indices], f"activity {said}; mean {by_image.mean():.2f}"))
    return Looked(
        name,
        pixels,
        f"{names[label]} ({probabilities[label]:.1%})",
        input_gradient(model, image)[0],
        occlusion(model, image[0], window, stride=max(window // 2, 1)),
        window,
        moved,
    )
