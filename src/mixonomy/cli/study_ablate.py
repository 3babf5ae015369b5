"""`mixonomy study ablate`."""

from dataclasses import dataclass

from mixonomy.cli.arguments import parse
from mixonomy.cli.study_training import StudyOptions, few_images, show, trained

TRAIN_IMAGES = 5_000  # of a large set: few enough that there is something to regularise


@dataclass(frozen=True)
class StudyAblate(StudyOptions):
    """What each part of a Mixer and of its recipe is worth: one thing at a time is changed, with the same seeds.

    Differences have intervals, and "equal" means within a point by two one-sided tests.
    """

    data: str | None = None
    """SOURCE; cifar10 if not given, with --quick digits."""
    factors: tuple[str, ...] = ()
    """Words from the names of what is changed, such as "SAM" or "per channel"; everything if not given."""
    epochs: float | None = None
    """Length of each training; 12 if not given."""
    train_images: int | None = None
    """Train on so many images only; 5000 of cifar10, all of other data if not given."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyAblate, argv, name="study ablate")

    from mixonomy.studies.ablate import NAME, ablate, base_recipe, read
    from mixonomy.studies.study import Study

    def study() -> Study:
        source = options.data or ("digits" if options.quick else "cifar10")
        images = options.train_images
        if images is None:
            images = TRAIN_IMAGES if source == "cifar10" and not options.quick else few_images(source, options)
        base = base_recipe(source, is_quick=options.quick, epochs=options.epochs, train_images=images)
        return ablate(base, options.chosen_seeds, options.factors)

    return show(NAME, options, argv, trained(study), read)
