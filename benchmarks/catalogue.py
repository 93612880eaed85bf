"""How fast the published sets are read, each in its own format and with its number of atoms.

    python benchmarks/catalogue.py [--structures 300] [--sources omat24 oc20 ...]

Files are made by ``tools/catalogue/native.py`` and removed afterwards. Rates are those of the whole
extract stage, with checks and fingerprints, per second of CPU time, as `mtlpar plan data --measure`
takes them; ``workflow/machines/laptop.yaml`` has them for `mtlpar plan data --catalogue`. Bytes are
those of the file for each structure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from machine import describe_machine

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Print a row for each set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--structures", type=int, default=300, help="in each file (default: 300)")
    parser.add_argument("--sources", nargs="*", help="sets (default: all that are written here)")
    options = parser.parse_args()

    sys.path.insert(0, str(ROOT / "tools" / "catalogue"))
    import native

    from mtlpar.config.load import load_config
    from mtlpar.plan.workload import read_datasets
    from mtlpar.sources.registry import define_custom_sources, get_source
    from mtlpar.study.data_rates import reading_rate

    blocks = sorted((ROOT / "workflow" / "catalogue").glob("*.yaml"))
    define_custom_sources(load_config([ROOT / "config.yaml", *blocks]).custom_sources)
    names = options.sources or list(native.WRITERS)
    print(describe_machine())
    print(f"{'set':<10} {'atoms':>6} {'bytes/structure':>16} {'structures/s':>13} {'atoms/s':>10}")
    for dataset in read_datasets(names, ROOT / "workflow" / "dataset_sizes.csv"):
        atoms = round(dataset.atoms_per_structure)
        made = native.make_structures(
            options.structures, atoms=atoms, is_crystal=dataset.name in native.CRYSTALS
        )
        with tempfile.TemporaryDirectory() as folder:
            path = native.WRITERS[dataset.name](Path(folder), made)
            size = path.stat().st_size / len(made)
            rate = reading_rate(get_source(dataset.name), path, Path(folder) / "extracted")
        print(f"{dataset.name:<10} {atoms:>6} {size:>16,.0f} {rate:>13,.0f} {rate * atoms:>10,.0f}")


if __name__ == "__main__":
    main()
