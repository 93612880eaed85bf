"""``python -m mtlpar`` is the same as ``mtlpar``."""

import sys

from mtlpar.cli import main

sys.exit(main())
