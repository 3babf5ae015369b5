"""The pictures on the page of the study of weights: units of each block, stem kernels, and one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from mixonomy.report import markup
from mixonomy.report.map_pictures import gradient_picture, mosaic, occlusion_picture
from mixonomy.report.pictures import picture
from mixonomy.report.study_page import Section

MOST_UNITS = 256  # of a block, so that the page of a large model stays small


@dataclass(frozen=True)
class UnitMaps:
    """Units of one block in the order in which they are drawn.

    Args:
      name: of the model and the block.
      maps: [U, rows, columns].
    """

    name: str
    maps: Tensor


@dataclass(frozen=True)
class Looked:
    """One image, and where a model looked.

    Args:
      name: of the model.
      pixels: uint8 [c, H, W], as the model reads it.
      said: what it was taken for.
      gradient: [H, W]; occlusion: [rows, columns].
      window: side of the hidden square in pixels.
      moved: for each block its name, the maps [n, rows, columns] of the units that the image moves most, and in words
        how strongly.
    """

    name: str
    pixels: Tensor
    said: str
    gradient: Tensor
    occlusion: Tensor
    window: int
    moved: Sequence[tuple[str, Tensor, str]]


def units_section(blocks: Sequence[UnitMaps]) -> Section:
    """Figures 5 and 6 of the paper."""
    about = markup.paragraph(
        "Each small map is one hidden unit of a token MLP: its input weights over the grid of patches, scaled to its "
        "own largest weight; blue is negative, orange positive. Units come by their frequency, the lowest first, each "
        "followed by the one of those left that is most opposite to it."
    )
    parts = [about]
    for block in blocks:
        shown = block.maps[:MOST_UNITS]
        of = "" if len(shown) == len(block.maps) else f", the first {len(shown)} of {len(block.maps)} units"
        parts.append(_wide(mosaic(shown, f"units of {block.name}"), f"{block.name}{of}"))
    return "units", "Token-mixing units", markup.section("units", "Token-mixing units", *parts)


def stems_section(stems: Sequence[tuple[str, Tensor]]) -> Section:
    """Figure 7 of the paper: (model, kernels [C, c, P, P]), in the same order as units."""
    parts = [
        markup.paragraph("Kernels of the first convolution, in its colours; grey is zero. Sorted as the units are.")
    ]
    for name, kernels in stems:
        shown = kernels[:MOST_UNITS]
        parts.append(_wide(mosaic(shown if shown.shape[1] == 3 else shown[:, 0], f"stem of {name}"), name))
    return "stems", "Stem kernels", markup.section("stems", "Stem kernels drawn", *parts)


def looked_section(images: Sequence[Looked]) -> Section:
    """Where each model looked in the one image."""
    parts = [
        markup.paragraph(
            "Input gradient: how strongly each pixel moves the score of the predicted class. Occlusion: how much of "
            "its probability goes when a grey square hides a place (orange), or comes (blue)."
        )
    ]
    for each in images:
        lines = (
            (picture(each.pixels, "the image"), [(each.name, each.said, "")]),
            (gradient_picture(each.gradient, "input gradient"), [("", "input gradient", "")]),
            (
                occlusion_picture(each.occlusion, "occlusion map"),
                [("", "occlusion", f"by squares of {each.window} pixels")],
            ),
        )
        parts.append(markup.gallery(lines))
        if each.moved:
            cards = [
                (mosaic(maps, f"units of {name}", per_row=3), [("", name, said)]) for name, maps, said in each.moved
            ]
            parts.append(f"<h3>{escape(each.name)}: the units that this image moves most</h3>{markup.gallery(cards)}")
    return "looked", "One image", markup.section("looked", "One image", *parts)


def _wide(shown: markup.Picture, caption: str) -> str:
    return f'<figure class="maps">{markup.image(shown)}<figcaption>{escape(caption)}</figcaption></figure>'
