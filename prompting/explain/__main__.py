"""``python -m prompting.explain RUN plan IMAGE ...``: see ``prompting.commands.explain``."""

import argparse
import sys

from prompting.commands import explain


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m prompting.explain", description=explain.__doc__, formatter_class=form)
    explain.add_arguments(parser)
    try:
        return explain.run(parser.parse_args())
    except (ValueError, OSError, ImportError) as error:
        print(f"explain: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
