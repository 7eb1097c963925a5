"""`python -m gradwire_service` is the `gradwire` command."""

import sys

from .cli import main

sys.exit(main())
