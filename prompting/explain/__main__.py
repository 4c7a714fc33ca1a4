"""``python -m prompting.explain RUN plan IMAGE ...``: as ``align-clip explain``."""

import sys

from prompting.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["explain", *sys.argv[1:]]))
