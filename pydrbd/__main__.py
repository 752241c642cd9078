"""`python -m pydrbd`: the command line."""

import sys

from pydrbd.admin.cli import main

if __name__ == "__main__":
    sys.exit(main())
