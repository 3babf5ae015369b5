"""Mixer-L/16 on ImageNet-1k from scratch, 300 epochs: the paper's table 4, row two.

    mixonomy train --recipe imagenet1k_l16

Published score: 71.76 % top-1 (paper, table 3), less than B/16: on so few images the larger model overfits.
Not run here, see imagenet1k_b16. Source: MLP-Mixer paper, table 4.
"""

from mixonomy.recipe import changed
from mixonomy.recipes.imagenet1k_b16 import recipe as b16

recipe = changed(b16, name="imagenet1k_l16", model={"name": "mixer-l/16"})
