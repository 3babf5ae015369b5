"""Images that cannot be read: an error, or left out, counted and named. Never replaced by others."""

from dataclasses import dataclass, field

from mixonomy import parallel
from mixonomy.choices import BadImagePolicy

MAX_BAD_SHARE = 0.01  # of all images of a source; above it something else is wrong


@dataclass(frozen=True)
class BadImage:
    """One that cannot be read: its name, and why."""

    name: str
    error: str


@dataclass
class BadImages:
    """Those found so far, and what to do about them.

    Args:
      policy: "error" raises for the first, "skip" leaves them out.
      errors: name -> why it cannot be read.
    """

    policy: BadImagePolicy = "error"
    errors: dict[str, str] = field(default_factory=dict)

    def add(self, *found: BadImage) -> None:
        """Takes note of images that cannot be read.

        Raises:
          ValueError: naming the first one, if the policy is "error".
        """
        for image in found:
            if self.policy == "error":
                raise ValueError(
                    f"image {image.name!r}: {image.error}; remove or replace it, or leave out what cannot be read by "
                    f"--on-bad-image skip."
                )
            self.errors[image.name] = image.error

    def share(self) -> None:
        """Takes note of what the other ranks have found. A call of all ranks."""
        for errors in parallel.gather(self.errors):
            self.errors |= errors

    def check(self, total: int, max_share: float) -> None:
        """Refuses to go on with too many.

        Args:
          total: number of images of the whole source.
          max_share: largest share of them that may be left out.
        Raises:
          ValueError: if more are bad.
        """
        count = len(self.errors)
        if count > max_share * total:
            name, error = next(iter(self.errors.items()))
            raise ValueError(
                f"{count:,} of {total:,} images cannot be read, more than the {max_share:.2%} that may be left out "
                f"(the first is {name!r}: {error}); mend them, or allow more by --max-bad-share."
            )
