"""`python -m workbench.evaluation -p NAME VALUE ...`."""

import sys

from .checkpoints import main

sys.exit(main())
