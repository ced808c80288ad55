"""How many faults `terrafuse data check` finds, as a Markdown table: fault, found, code, seconds.

    python benchmarks/doctor --seeds 3
    python benchmarks/doctor --seeds 3 --scales ../shared/data

Each fault is put into a copy of a synthetic data set of six scenes; it counts as found where an
error or a warning names it with its scene and modality. The sound data sets must have neither.

With `--scales` it prints what `predict` and `evaluate` say of rasters in another scale than the
training's: seeded mismatches of real scenes, and every comparison of right ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from faults import CATALOGUE
from faulty_data import make_faulty, make_sound
from real_scales import print_scales

from terrafuse.data import load_manifest
from terrafuse.doctor import Finding, check_manifest


def check(manifest: Path) -> tuple[list[Finding], float]:
    """Errors and warnings, and seconds taken on one core."""
    start = time.perf_counter()
    findings = check_manifest(load_manifest(manifest), workers=1)
    seconds = time.perf_counter() - start
    return [finding for finding in findings if finding.severity != "note"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1, help="data sets per fault")
    parser.add_argument("--size", type=int, default=192, help="rows and columns of scenes")
    parser.add_argument("--scales", type=Path, help="folder of real data; only this table")
    options = parser.parse_args()
    seeds, size = range(options.seeds), options.size
    if options.scales:
        print_scales(options.scales, seeds)
        return
    found = {fault.name: 0 for fault in CATALOGUE.faults}
    codes: dict[str, str] = {}
    times: dict[str, float] = dict.fromkeys(found, 0.0)
    false = []
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:
            folder = Path(name) / str(seed)
            findings, sound_seconds = check(make_sound(folder / "sound", seed, size))
            false += findings
            for number, fault in enumerate(CATALOGUE.faults):
                manifest = make_faulty(folder / "sound", folder / f"{number}", fault, seed)
                findings, seconds = check(manifest)
                times[fault.name] += seconds / len(seeds)
                told = [finding for finding in findings if fault.is_told_by(finding)]
                if told:
                    found[fault.name] += 1
                    codes[fault.name] = f"{told[0].severity} `{told[0].code}`"
    print("| fault | found | as | s |\n|---|---|---|---|")
    for fault_name, count in found.items():
        shown = "yes" if count == len(seeds) else f"{count} of {len(seeds)}" if count else "no"
        print(f"| {fault_name} | {shown} | {codes.get(fault_name, '')} | {times[fault_name]:.1f} |")
    every = sum(count == len(seeds) for count in found.values())
    print(f"\n{every} of {len(found)} found in each of {len(seeds)} data sets; sound data sets: ")
    print(f"{len(false)} errors and warnings, {sound_seconds:.1f} s each")
    for finding in false:
        print(f"  {finding.code}: {finding}")


if __name__ == "__main__":
    main()
