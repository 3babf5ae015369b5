"""The CIFAR-10 recipe on CIFAR-100's hundred fine classes.

    mixonomy train --data cifar100

Not run yet. Source: none; see cifar10.
"""

from mixonomy.recipe import changed
from mixonomy.recipes.cifar10 import recipe as cifar10

recipe = changed(cifar10, name="cifar100", data={"source": "cifar100"})
