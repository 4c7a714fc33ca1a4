"""Make the pictures of the mini world from the npm package ``@iconify/json``.

    python -m datasets.mini.build
    python -m datasets.mini.build --package node_modules/@iconify/json --workers 2

For maintainers: users find the benchmark's pictures in ``assets/mini_world``. Needs npm and ``pip install resvg-py``.
Writes sheets, manifest and NOTICE of the benchmark there, and the pre-training pictures into a cache folder.
"""

import json
import logging
import os
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from dassl.utils.command import Parser, command

from .iconify import IconSet, read_sets, trademarks
from .likeness import distinct
from .notice import notice
from .pack import OWN_WORDS, SPLITS, WORLD, Entry, write_manifest, write_pretraining, write_sheet, write_sums
from .pretraining_pack import default_folder, usable, write_pack
from .rendering import pixels_of, render_sets
from .roles import HELD_OUT, Picture, choose, read_pictures, without_copies

PACKAGE = "@iconify/json"
VERSION = "2.2.535"  # the version that the committed sheets were made from
OWN_CLASSES = ("brain", "eye", "flag", "stairs", "tooth")  # things that people draw and that are in no data set
OWN_PICTURES = 12  # a class, at most
log = logging.getLogger("datasets.mini.build")


def fetch(folder: Path, version: str) -> Path:
    """Return the unpacked package, fetched by npm into ``folder`` unless it exists; raise RuntimeError if npm fails."""
    place = folder / f"iconify-json-{version}"
    if (place / "package" / "collections.json").is_file():
        return place / "package"
    place.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["npm", "pack", f"{PACKAGE}@{version}"], cwd=place, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError("npm is not installed; it is needed to fetch the pictures") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"npm pack {PACKAGE}@{version} failed: {error.stderr.strip().splitlines()[-1]}") from error
    archive = next(place.glob("*.tgz"))
    with tarfile.open(archive) as file:
        file.extractall(place, filter="data")
    archive.unlink()
    return place / "package"


def write_benchmark(chosen: list[Picture], sets: list[IconSet], rendered: Path, world: Path) -> list[Entry]:
    """Write the sheets and the manifest of the benchmark; return its lines."""
    about = {icons.name: icons for icons in sets}
    groups: dict[tuple[str, str], list[Picture]] = defaultdict(list)
    for picture in chosen:
        sheet = "colours" if about[picture.hand].coloured else "masks"
        groups[picture.used.split("/")[0], sheet].append(picture)
    entries = []
    for (dataset, sheet), pictures in sorted(groups.items()):
        pictures.sort(key=lambda p: (p.name, SPLITS.index(p.used.split("/")[1]), p.hand, p.icon))
        write_sheet(np.stack([pixels_of(rendered, p.hand)[p.row] for p in pictures]), world / f"{dataset}.{sheet}.png")
        for tile, p in enumerate(pictures):
            split, licence = p.used.split("/")[1], about[p.hand].licence
            entries.append(Entry(dataset, split, p.name, p.hand, p.icon, licence, f"{p.hash:016x}", sheet, tile))
    entries.sort(key=lambda e: (e.dataset, e.classname, SPLITS.index(e.split), e.hand, e.icon))
    write_manifest(entries, world / "manifest.csv")
    return entries


def own_words(pictures: list[Picture], known: list[Picture]) -> list[Picture]:
    """Return pictures of ``OWN_CLASSES`` from sets that pre-training never sees, without copies of its pictures."""
    chosen = []
    for word in OWN_CLASSES:
        found = sorted((p for p in pictures if p.name == word and p.hand in HELD_OUT), key=lambda p: p.hash)
        found = without_copies(found, known)
        kept = [found[i] for i in distinct([p.hash for p in found])[:OWN_PICTURES]]
        chosen += [replace(p, used=f"{OWN_WORDS}/test") for p in kept]
    return chosen


@command("python -m datasets.mini.build")
def main(words: Sequence[str]) -> None:
    """Fetch, render, choose and write."""
    parser = Parser(prog="python -m datasets.mini.build", doc=__doc__)
    add = parser.add_argument
    add("--package", type=Path, help=f"an unpacked {PACKAGE} (default: fetch {VERSION})")
    add("--cache", type=Path, default=default_folder(), help="folder of pre-training pictures")
    add("--output-dir", "--out", dest="out", type=Path, default=WORLD, help="folder of the benchmark's pictures")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    args = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    package = args.package or fetch(args.cache, VERSION)
    sets = read_sets(package)
    version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
    rendered = args.cache / "rendered"
    log.info("%d sets; rendered %d icons now", len(sets), render_sets(sets, package, rendered, args.workers))
    pictures = read_pictures(rendered, {icons.name: icons.styles for icons in sets}, trademarks(package))
    chosen, known = choose(pictures)
    chosen += own_words(pictures, known)
    args.out.mkdir(parents=True, exist_ok=True)
    entries = write_benchmark(chosen, sets, rendered, args.out)
    coloured = frozenset(icons.name for icons in sets if icons.coloured)
    count = write_pack(known, rendered, coloured, args.cache)
    seen = usable(known)
    write_pretraining(sorted((p.hand, p.icon, f"{p.hash:016x}") for p in seen), args.out / "pretraining.csv.gz")
    text = notice(sets, Counter(e.hand for e in entries), Counter(p.hand for p in seen), version)
    (args.out / "NOTICE.md").write_text(text, encoding="utf-8")
    write_sums(args.out)
    found = "%d pictures of %d: %d in the benchmark, %d for pre-training"
    log.info(found, len(pictures), len(sets), len(entries), count)


if __name__ == "__main__":
    sys.exit(main())
