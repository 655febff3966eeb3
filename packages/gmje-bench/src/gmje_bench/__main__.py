"""``python -m gmje_bench`` and ``accelerate launch -m gmje_bench``."""

import sys

from gmje_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
