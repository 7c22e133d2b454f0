"""`python -m captchad.provider.sandbox`."""

import sys

from captchad.provider.sandbox.main import main

if __name__ == "__main__":
    sys.exit(main())
