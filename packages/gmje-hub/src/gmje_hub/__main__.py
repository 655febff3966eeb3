"""``python -m gmje_hub``."""

import sys

from gmje_hub.cli import main

sys.exit(main())
