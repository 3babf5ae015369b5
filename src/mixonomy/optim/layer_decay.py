"""Layer-wise learning-rate decay: the nearer a layer is to the image, the smaller its share of the learning rate."""

import re
from collections.abc import Iterable

_BLOCK = re.compile(r"((?:.*\.)?blocks)\.(\d+)\.")


def layer_scales(names: Iterable[str], decay: float) -> dict[str, float]:
    """Each parameter's share of the learning rate.

    With L blocks, block i (from 0) gets decay ** (L - i); what comes before the blocks, such as the stem and positions,
    decay ** (L + 1); what comes after them, such as the last norm and the head, 1.

    Args:
      names: of all parameters, in the order of `named_parameters`: "before" and "after" are read off it.
      decay: in (0, 1).
    Returns:
      Name -> share, in (0, 1].
    Raises:
      ValueError: if no parameter is in a block, or there is more than one sequence of blocks.
    Source: ELECTRA (Clark et al. 2020) run_finetuning.py and model/optimization.py, `_get_layer_lrs`; in this form BEiT
      (Bao et al. 2021) optim_factory.py, `get_num_layer_for_vit`: stem 0, block i is i + 1, the rest L + 1.
    """
    names = list(names)
    found = {name: match for name in names if (match := _BLOCK.match(name))}
    sequences = sorted({match[1] for match in found.values()})
    if len(sequences) != 1:
        has = "several: " + ", ".join(sequences) if sequences else "none"
        raise ValueError(
            f"layer_decay needs one sequence of blocks whose parameters are named `blocks.0.`, `blocks.1.` and so on, "
            f"and this model has {has}; leave layer_decay out."
        )
    num_blocks = 1 + max(int(match[2]) for match in found.values())
    first = min(names.index(name) for name in found)
    distance = {name: num_blocks - int(match[2]) for name, match in found.items()}  # to the head
    outside = {name: num_blocks + 1 if i < first else 0 for i, name in enumerate(names)}
    return {name: decay ** distance.get(name, outside[name]) for name in names}
