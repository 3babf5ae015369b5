"""Suites of downstream tasks, each with its protocol: which data, how many training images, how long.

A task is a SOURCE with the number of its classes; what one trains on and chooses by is the recipe's business, see
`mixonomy.transferring`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixonomy.preprocessing import EvalCrop

VTAB_LRS = (0.003, 0.01, 0.03)  # MLP-Mixer paper, appendix C
LRS = (0.003, 0.01, 0.03, 0.06)  # MLP-Mixer paper, appendix C
VTAB_STEPS = 2500  # ViT (Dosovitskiy et al. 2020), table 4; the warm-up is a fifth, as of the recipe's 500
VTAB_PIXELS = "224 pixels for data of small images, 448 for the others"  # MLP-Mixer paper, appendix C
# Tasks of VTAB whose label, such as a place, an angle or a number of things, would not survive it; BiT (Kolesnikov et
# al. 2020), appendix F. All other tasks are cropped and flipped, and all are scored on whole images (section 3.3).
NOT_CROPPED = ("clevr_count", "clevr_distance", "dmlab", "kitti_distance", "dsprites_location")
NOT_FLIPPED = ("dsprites_orientation", "dsprites_location", "smallnorb_azimuth")


@dataclass(frozen=True)
class Task:
    """One data set of a suite.

    Args:
      name: as it stands in tables.
      source: SOURCE; a name with "vtab/" before it is looked for under the data root.
      num_classes: checked against the data.
      group: of the suite's own division, empty where it has none.
      train_images: how many may be trained on, the held-out ones among them; all if None.
      val_share: of them, to choose the rate by, where the data has no validation split or train_images is given;
        None is the recipe's own.
      steps: of training; by the number of images if None.
      lrs: rates to choose from.
      split_sizes: images of train and of val that the data must have, and a test split; whatever it has if None.
      is_cropped, is_flipped: whether training images may be, which changes some labels.
      eval_crop: how images are cut for evaluation, and for training where they are not cropped; None is the recipe's.
      published: model -> its top-1 in percent, and where it stands.
    Raises:
      ValueError: for a name that is no name of a folder, a number below 1, or no rates.
    """

    name: str
    source: str
    num_classes: int
    group: str = ""
    train_images: int | None = None
    val_share: float | None = None
    steps: int | None = None
    lrs: tuple[float, ...] = LRS
    split_sizes: tuple[int, int] | None = None
    is_cropped: bool = True
    is_flipped: bool = True
    eval_crop: EvalCrop | None = None
    published: dict[str, tuple[float, str]] = field(default_factory=dict)

    def __post_init__(self):
        _check_name("task", self.name)
        for what in ("num_classes", "train_images", "steps"):
            value = getattr(self, what)
            if value is not None and value < 1:
                raise ValueError(f"{what} of task {self.name} is {value}; give 1 or more.")
        check_lrs(self.lrs, f"task {self.name}")


@dataclass(frozen=True)
class Suite:
    """Tasks whose mean accuracy is one number.

    Args:
      published: model -> that number in percent, and where it stands.
    Raises:
      ValueError: for a name that is no name of a folder, no tasks, or two of one name.
    """

    name: str
    tasks: tuple[Task, ...]
    published: dict[str, tuple[float, str]] = field(default_factory=dict)

    def __post_init__(self):
        _check_name("suite", self.name)
        names = [task.name for task in self.tasks]
        if not names:
            raise ValueError(f"suite {self.name} has no tasks; give one or more.")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"suite {self.name} has two tasks {twice[0]!r}; give each a name of its own.")


def check_lrs(lrs: Sequence[float], whose: str) -> None:
    """Refuses rates that cannot be chosen from.

    Raises:
      ValueError: if there are none, one comes twice, or is no positive number.
    """
    if not lrs:
        raise ValueError(f"{whose} has no learning rates; give one or more.")
    for lr in lrs:
        if not 0.0 < lr < math.inf:
            raise ValueError(f"{whose} has the learning rate {lr}; give positive numbers.")
        if lrs.count(lr) > 1:
            raise ValueError(f"{whose} has the learning rate {lr} twice; give each once.")


def _check_name(what: str, name: str) -> None:
    """Refuses what cannot be the name of a folder of results."""
    if name in ("", "..") or name != Path(name).name:
        raise ValueError(f"{what} {name!r} has no name for a folder; leave out slashes.")


def _vtab(group: str, **classes: int) -> tuple[Task, ...]:
    """Tasks with VTAB's own split of 800 and 200 images."""
    return tuple(
        Task(
            name.replace("_", "-"),
            f"vtab/{name}",
            count,
            group,
            steps=VTAB_STEPS,
            lrs=VTAB_LRS,
            split_sizes=(800, 200),
            is_cropped=name not in NOT_CROPPED,
            is_flipped=name not in NOT_FLIPPED,
            eval_crop="squash",
        )
        for name, count in classes.items()
    )


def _like_vtab(source: str, num_classes: int, group: str) -> Task:
    """The protocol of 1,000 images, 200 of them to choose by, on data that is at hand."""
    return Task(source, source, num_classes, group, 1000, 0.2, VTAB_STEPS, VTAB_LRS, eval_crop="squash")


TABLE3 = "MLP-Mixer paper, table 3, 224 pixels"
RERUN = "google-research/vision_transformer, README, 224 pixels"
MIXERS = ("mixer-b/16, ImageNet", "mixer-l/16, ImageNet", "mixer-b/16, ImageNet-21k", "mixer-l/16, ImageNet-21k")


def _of_mixers(where: str, *scores: float) -> dict[str, tuple[float, str]]:
    """Published scores of `MIXERS`, in percent."""
    return {model: (score, where) for model, score in zip(MIXERS, scores, strict=True)}


# Source: MLP-Mixer paper, section 3.1.
AVG5 = Suite(
    "avg5",
    (
        Task("imagenet1k", "imagenet1k", 1000, published=_of_mixers(TABLE3, 76.44, 71.76, 80.64, 82.89)),
        Task("cifar10", "cifar10", 10, published=_of_mixers(RERUN, 96.72, 96.59, 96.82, 98.34)),
        Task("cifar100", "cifar100", 100),
        Task("pets", "pets", 37),
        # The paper chooses by a tenth of train and val together, not by Flowers' own val, which is half of them.
        Task("flowers102", "flowers102", 102, train_images=2040),
    ),
    _of_mixers(TABLE3, 88.33, 87.25, 92.50, 93.63),
)
# Source: task_adaptation scripts/run_all_tasks.sh for the tasks; Zhai et al. 2019, "A large-scale study of
# representation learning with the visual task adaptation benchmark", table 1 and appendix A for groups and classes.
VTAB1K = Suite(
    "vtab1k",
    (
        *_vtab("natural", caltech101=102, cifar100=100, dtd=47, flowers102=102, pets=37, svhn=10, sun397=397),
        *_vtab("specialized", patch_camelyon=2, eurosat=10, resisc45=45, diabetic_retinopathy=5),
        *_vtab(
            "structured",
            clevr_count=8,
            clevr_distance=6,
            dmlab=6,
            kitti_distance=4,
            dsprites_location=16,
            dsprites_orientation=16,
            smallnorb_azimuth=18,
            smallnorb_elevation=9,
        ),
    ),
    {
        "mixer-l/16, ImageNet-21k": (74.95, f"MLP-Mixer paper, table 2, {VTAB_PIXELS}"),
        "mixer-h/14, JFT-300M": (75.33, f"MLP-Mixer paper, table 2, {VTAB_PIXELS}"),
    },
)
# Own choice: three data sets of VTAB that are small and easy to come by.
VTAB_LIKE = Suite(
    "vtab-like",
    (
        _like_vtab("cifar100", 100, "natural"),
        _like_vtab("flowers102", 102, "natural"),
        _like_vtab("eurosat", 10, "specialized"),
    ),
)
SUITES = {suite.name: suite for suite in (AVG5, VTAB1K, VTAB_LIKE)}
