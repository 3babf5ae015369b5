"""The page of a learning-rate range test: what was suggested, and the curve it was read off."""

import shlex
from html import escape
from pathlib import Path

from mixonomy.lr_range import DIVERGED, SMOOTHING, LrTest
from mixonomy.models.files import write_atomically
from mixonomy.recipe import Recipe
from mixonomy.report import markup, plots
from mixonomy.report.document import document


def write_lr_page(path: Path, test: LrTest, recipe: Recipe) -> None:
    """Writes the page of a range test.

    Args:
      path: of the .html file; its folder is made if need be.
      recipe: which the test followed.
    Raises:
      ValueError: if it cannot be written.
    """
    options = ["--lr", f"{test.lr:g}", *([] if test.rest_lr is None else ["--optim.rest-lr", f"{test.rest_lr:g}"])]
    headline = (
        markup.paragraph(
            f"Recipe {recipe.name}, optimizer {recipe.optim.name}, data {recipe.data.source}: {len(test.rates)} steps "
            f"of {recipe.batch_size} images, learning rates from {test.rates[0]:.2g} to {test.rates[-1]:.2g}."
        )
        + f'<p class="score"><strong>{test.lr:g}</strong> suggested learning rate: {escape(shlex.join(options))}</p>'
    )
    end = "The loss diverged there, which ended the test." if test.is_diverged else "The loss did not diverge."
    curve = markup.figure(
        plots.lr_range_plot(test.rates, test.losses, test.smoothed, test.lr),
        f"Training loss against the learning rate, which grew at each step: dots are steps, the line is their moving "
        f"average ({SMOOTHING:g}, bias-corrected). The dashed line marks the suggestion: a tenth of the rate where the "
        f"average is lowest, but no more than where it has made half of its fall. {end}",
        is_beside=True,
    )
    about = markup.paragraph(
        f"A range test is a first guess: it saw {len(test.rates)} steps, and the best rate also depends on the length "
        f"of the training. It ends early when the average is {DIVERGED:g} times its best."
    )
    page = document(
        f"Learning-rate range test: {recipe.name}", headline, (), markup.section("curve", "Curve", curve, about)
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror}); give another --out.") from None
