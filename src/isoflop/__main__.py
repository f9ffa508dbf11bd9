"""``python -m isoflop``."""

import sys

from isoflop.cli import main

sys.exit(main())
