"""One thing at a time changed around a Mixer and its recipe: what each part is worth, paired by seed.

Source: MLP-Mixer paper, appendix A (what did not help) and table 4 (regularisation).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mixonomy.models import create_from
from mixonomy.models.isotropic import Options
from mixonomy.models.mixer import MixerSize
from mixonomy.recipe import Augment, Data, Model, Optim, Recipe, changed
from mixonomy.report.charts import Interval, interval_svg
from mixonomy.report.study_page import Figure, Found, Table
from mixonomy.rows import Row
from mixonomy.studies.paired import BOUND, Difference, paired, points
from mixonomy.studies.sources import read_by_source
from mixonomy.studies.study import Finished, Number, Planned, Study, data_named, failures, percent, values_of
from mixonomy.studies.trace import trace
from mixonomy.studies.variants import GROUPS, SHRINK, Variant, mixer_variant

NAME = "ablate"
BASE = "base"
UNTIED = "token MLP per channel"


@dataclass(frozen=True)
class Factor:
    """One thing that is changed.

    Args:
      name: in tables.
      changes: of the base recipe, see `mixonomy.recipe.changed`.
      variant: of the model, where no recipe describes it.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    variant: Variant | None = None


FACTORS = (
    Factor(UNTIED, variant="untied"),
    Factor(f"{GROUPS} channels grouped", variant="grouped"),
    Factor(f"{GROUPS} learned views", variant="views"),
    Factor(f"pyramid, 1/{SHRINK} of tokens", variant="pyramid"),
    Factor("no skips", variant="no skip"),
    Factor("no LayerNorm", variant="no norm"),
    Factor("positions added", variant="positions"),
    Factor("GELU by erf", {"model": {"gelu": "erf"}}),
    Factor("mixup 0.5", {"augment": {"mixup": 0.5}}),
    Factor("RandAugment 2 x 10", {"augment": {"randaugment_layers": 2, "randaugment_magnitude": 10}}),
    Factor("stochastic depth 0.1", {"model": {"drop_path": 0.1}}),
    Factor("dropout 0.1", {"model": {"dropout": 0.1}}),
    Factor("no weight decay", {"optim": {"weight_decay": 0.0}}),
    Factor("SAM 0.05", {"optim": {"sam_rho": 0.05}}),
    Factor("Muon", {"optim": {"name": "muon", "lr": 0.02, "rest_lr": 2e-3}}),
)


def base_recipe(source: str, *, is_quick: bool, epochs: float | None = None, train_images: int | None = None) -> Recipe:
    """The recipe around which one thing is changed.

    Args:
      source: SOURCE of the data: 8 pixels a side for the digits, else 32.
      epochs: in place of the study's own.
      train_images: train on so many only, so that there is something to regularise in a short training.
    """
    side, patch = (8, 2) if source == "digits" else (32, 4)
    width = 32 if is_quick else 64
    return Recipe(
        name=f"study-{NAME}",
        data=Data(source=source, val_share=0.05, eval_crop="squash", train_images=train_images),
        model=Model(
            name="mixer",
            patch_size=patch,
            hidden_dim=width,
            num_blocks=4,
            tokens_mlp_dim=width // 2,
            channels_mlp_dim=4 * width,
            gelu="tanh",
        ),
        image_size=side,
        augment=Augment(crop="pad", pad=side // 8, flip=source != "digits"),
        optim=Optim(name="adamw", lr=2e-3, weight_decay=0.1, clip=1.0),
        duration=f"{epochs if epochs is not None else 12:g} epochs",
        batch_size=64,
        keep="last",
    )


def ablate(base: Recipe, seeds: Sequence[int], factors: Sequence[str] = ()) -> Study:
    """The study: the base, and one run of each factor, with every seed.

    Args:
      factors: parts of names from `FACTORS`; all if none are given.
    Raises:
      ValueError: for a factor that there is none of, or a base that is no Mixer with its sizes given.
    """
    for part in factors:
        if not any(part in factor.name for factor in FACTORS):
            raise ValueError(f"no factor has {part!r} in its name; use {', '.join(f.name for f in FACTORS)}.")
    chosen = [each for each in FACTORS if not factors or any(part in each.name for part in factors)]
    planned, data = [], data_named(base)
    for seed in seeds:
        recipe = changed(base, seed=seed)
        planned.append(Planned(BASE, data, recipe, measure=costs))
        for each in chosen:
            varied = changed(recipe, **each.changes)
            build = None if each.variant is None else _builder(each.variant, recipe)
            planned.append(Planned(each.name, data, varied, build, measure=costs))
    return Study(NAME, tuple(planned), read)


def _builder(variant: Variant, recipe: Recipe) -> Callable[[int, int], nn.Module]:
    sizes = {name: getattr(recipe.model, name) for name in MixerSize.__dataclass_fields__}
    if missing := [name for name, value in sizes.items() if value is None]:
        raise ValueError(f"the base is no Mixer with its own sizes, {missing[0]} is not given; give all of them.")
    size = MixerSize(**sizes)

    def build(num_classes: int, channels: int) -> nn.Module:
        return mixer_variant(variant, size, Options(recipe.height_width, num_classes, channels))

    return build


def costs(run: Finished) -> Iterator[Number]:
    """Multiplications of one image, and what the backward pass of one keeps in memory."""
    recipe, source = run.planned.recipe, run.opened.source
    sizes = (len(source.class_names), source.channels)
    if run.planned.build is None:
        shape = {"num_classes": sizes[0], "image_size": recipe.height_width, "in_channels": sizes[1]}
        model = create_from(recipe.model, **shape)
    else:
        model = run.planned.build(*sizes)
    traced = trace(model, torch.zeros(1, source.channels, *recipe.height_width)).values()
    yield Number("macs", sum(each.macs for each in traced), "MACs/image")
    yield Number("activation_bytes", sum(each.activation_bytes for each in traced), "bytes/image")


def read(rows: Sequence[Row]) -> Found:
    """What the rows say: differences from the base with intervals, and whether they are equal to it."""
    return read_by_source(rows, lambda row: row["data"], _read)


def _read(rows: Sequence[Row]) -> Found:
    base = values_of(rows, "top1", model=BASE)
    names = [name for name in dict.fromkeys(row["model"] for row in rows) if name != BASE]
    differences = {name: paired(base, values_of(rows, "top1", model=name)) for name in names}
    lines = [_line(rows, BASE, None)] + [_line(rows, name, differences[name]) for name in names]
    intervals = []
    for name, each in differences.items():
        if each.n:
            ends = each.interval() or (None, None)
            intervals.append(Interval(name, 100 * each.mean, *(None if end is None else 100 * end for end in ends)))
    source = rows[0]["data"] if rows else ""
    figures = ()
    if intervals:
        svg = interval_svg("test top-1 less that of the base", "points", intervals, band=100 * BOUND)
        note = (
            "Test top-1 less that of the base, with 95 % intervals over seeds; of one seed a dot alone. The strip is "
            "what counts as equal: the 90 % interval must lie within it, which is narrower than the one drawn."
        )
        figures = (Figure(NAME, svg, note),)
    head = ("changed", "test top-1, %", "less the base", "verdict", "parameters", "MMACs", "kB kept", "s", "n")
    note = (
        f"Differences are in points, paired by seed, with 95 % intervals. Equal: the 90 % interval lies within "
        f"{100 * BOUND:g} point of 0, two one-sided tests at 5 %. kB kept: for the backward pass of one image."
    )
    table = Table("What each part is worth", head, tuple(lines), num_texts=1, note=note)
    return Found(
        f"Ablations of a Mixer on {source}" if rows else "Ablations",
        (*_sentences(differences, base.n), *_tying(rows, differences.get(UNTIED))),
        figures,
        (table, *failures(rows)) if rows else (),
        {"differences": {name: each.mean for name, each in differences.items() if each.n}},
    )


def _tying(rows: Sequence[Row], difference: Difference | None) -> Iterator[str]:
    """What tying the token MLPs of all channels costs, and what it saves."""
    if difference is None or not difference.n:
        return
    ratios = []
    for metric in ("params", "activation_bytes"):
        tied, untied = (values_of(rows, metric, model=name) for name in (BASE, UNTIED))
        if not (tied.n and untied.n):
            return
        ratios.append(untied.mean / tied.mean)
    yield (
        f"A token MLP for each channel has {ratios[0]:.1f} times the parameters and keeps {ratios[1]:.2f} times as "
        f"much for the backward pass; its accuracy against the one that all share: {points(difference)} points "
        f"({difference.verdict()})."
    )


def _line(rows: Sequence[Row], name: str, difference: Difference | None) -> tuple[str, ...]:
    top = values_of(rows, "top1", model=name)

    def number(metric: str, scale: float, form: str) -> str:
        values = values_of(rows, metric, model=name)
        return f"{values.mean / scale:{form}}" if values.n else "–"

    return (
        name,
        percent(top) if top.n else "failed" if top.failed else "–",
        "–" if difference is None else points(difference),
        "–" if difference is None else difference.verdict(),
        number("params", 1, ",.0f"),
        number("macs", 1e6, ",.2f"),
        number("activation_bytes", 1e3, ",.0f"),
        number("seconds", 1, ",.0f"),
        f"{top.n}",
    )


def _sentences(differences: Mapping[str, Difference], seeds: int) -> Iterator[str]:
    """Factors by their verdict."""
    by_verdict: dict[str, list[str]] = {}
    for name, difference in differences.items():
        if difference.n:
            by_verdict.setdefault(difference.verdict(), []).append(f"{name} ({points(difference)})")
    for verdict, names in by_verdict.items():
        said = {"one seed": "Of one seed, so nothing is decided", "better": "Better", "worse": "Worse"}
        said |= {"not decided": f"Not decided by {seeds} seeds"}
        yield f"{said.get(verdict, verdict.capitalize())}: {'; '.join(names)}."
