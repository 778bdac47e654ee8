"""`make torture`: `python -m tests.torture --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.torture import kills


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kill everything that writes, at random moments, and look whether anything is lost."
    )
    parser.add_argument("--files", type=int, default=300, help="in the folder that is ingested")
    parser.add_argument("--kills", type=int, default=100, help="of ingestion")
    parser.add_argument("--few", type=int, default=10, help="kills of each other command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    killer = kills.Killer(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="mmsearch-torture-") as folder:
        bed = kills.Bed.make(Path(folder), arguments.files, killer)
        print(f"{arguments.files} files are ingested in {bed.ingest_s:.1f} s when nobody interrupts", flush=True)
        tallies = kills.scenarios(bed, killer, arguments.kills, arguments.few)
    figures = kills.summary(tallies)
    print(json.dumps(figures, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(1 if figures["problems"] else 0)


if __name__ == "__main__":
    main()
