r"""`python -m hpcinv` is the command `hpcinv`."""

import sys

from hpcinv.cli import main

sys.exit(main())
