"""`mixonomy study permutation`."""

from dataclasses import dataclass

from mixonomy.cli.arguments import parse
from mixonomy.cli.study_training import StudyOptions, few_images, show, trained


@dataclass(frozen=True)
class StudyPermutation(StudyOptions):
    """What it costs an architecture that patches, the pixels in them, or all pixels are shuffled, alike for all images.

    A Mixer, ResNet, ViT and ConvMixer are trained and scored on the original images, on those with patches and the
    pixels within them shuffled (local), and on those with all pixels shuffled (global), as in the paper's figure 4. Two
    exact statements go with it: converted weights, and converted initial weights.
    """

    data: str | None = None
    """SOURCE of the training data; cifar10 if not given, with --quick digits."""
    probe: str | None = None
    """SOURCE of the few-shot data; cifar100 for cifar10, else the training data if not given."""
    models: tuple[str, ...] = ()
    """Of Mixer, ResNet, ViT and ConvMixer; all if not given."""
    epochs: float | None = None
    """Length of each training; 1 if not given, with --quick 12."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyPermutation, argv, name="study permutation")

    from mixonomy.data import open_source
    from mixonomy.studies.permutation import NAME, permutation, read, size_of
    from mixonomy.studies.study import Study

    def study() -> Study:
        source = options.data or ("digits" if options.quick else "cifar10")
        images = few_images(source, options)
        size = size_of(source, options.probe, is_quick=options.quick, epochs=options.epochs, train_images=images)
        planned = permutation(size, options.chosen_seeds, options.models)
        if size.base.probe.source is not None:
            open_source(size.base.probe.source, options.data_root)  # a wrong one is said before anything is trained
        return planned

    return show(NAME, options, argv, trained(study), read)
