"""`python -m workbench.data prepare SOURCE OUT --size S`."""

import sys

from .datasets import main

sys.exit(main())
