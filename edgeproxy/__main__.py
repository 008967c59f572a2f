"""`python -m edgeproxy` is `edgeproxy`."""
from __future__ import annotations

import sys

from edgeproxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
