"""`mixonomy study scale`."""

from dataclasses import dataclass

from mixonomy.cli.arguments import parse
from mixonomy.cli.study_training import StudyOptions, num_images, show, trained


@dataclass(frozen=True)
class StudyScale(StudyOptions):
    """What size buys: Mixers of three sizes on 3, 10, 30 and 100 % of the images, all with the same number of steps.

    Shows train against test accuracy and fits the test error; one size is also trained at half the side, and fine-tuned
    from there at that side and at the whole.
    """

    data: str | None = None
    """SOURCE; cifar10 if not given, with --quick digits."""
    fractions: tuple[int, ...] = ()
    """Shares of the training images in %; 3 10 30 100 if not given."""
    steps: int | None = None
    """Of each training; 800 if not given, with --quick 200."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyScale, argv, name="study scale")

    from mixonomy.studies.scale import FRACTIONS, NAME, base_recipe, read, scale, sizes_of
    from mixonomy.studies.study import Study

    def study() -> Study:
        source = options.data or ("digits" if options.quick else "cifar10")
        base = base_recipe(source, is_quick=options.quick, steps=options.steps)
        sizes, fractions = sizes_of(source, is_quick=options.quick), options.fractions or FRACTIONS
        count = num_images(source, options)
        return scale(base, sizes, count, options.chosen_seeds, fractions)

    return show(NAME, options, argv, trained(study), read)
