"""``python -m prompting.explain RUN plan IMAGE ...``: see ``prompting.explain.command``."""

import argparse
import sys

from prompting.explain.command import DESCRIPTION, EXAMPLES, add_arguments, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m prompting.explain",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except (ValueError, OSError, ImportError) as error:
        print(f"explain: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
