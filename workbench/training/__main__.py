"""`python -m workbench.training --config FILE`: what `accelerate launch` starts."""

import sys

from .loop import main

sys.exit(main())
