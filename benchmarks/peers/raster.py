"""Write the raster that peers map.

    python benchmarks/peers/raster.py FOLDER [--size 4096] [--bands 4]

It is the one of `benchmarks/engine.py`, in which ours is measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--bands", type=int, default=4)
    args = parser.parse_args()

    from engine import make_scene

    args.folder.mkdir(parents=True, exist_ok=True)
    make_scene(args.folder, args.size, args.bands)
    print(args.folder / "image.tif")


if __name__ == "__main__":
    main()
