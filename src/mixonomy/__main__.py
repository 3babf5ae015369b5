"""`python -m mixonomy`, the same as the command `mixonomy`."""

import sys

from mixonomy.cli import main

sys.exit(main())
