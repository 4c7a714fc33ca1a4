"""``python -m prompting.explain RUN plan IMAGE ...``: as ``align-clip explain``."""

import sys

from prompting.__main__ import main as align_clip


def main() -> int:
    return align_clip(["explain", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
