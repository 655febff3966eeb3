"""Every speed row in one table: run the programs of this folder one after the other and join what they measured.

``python benchmarks/speed`` runs all of them, ``python benchmarks/speed criteria imports`` those two. Each program has a
process of its own, so that no row inherits another's memory; a program whose peer is not installed is named and left
out.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _measure import Record, Result, table

FOLDER = Path(__file__).parent


def main() -> int:
    """Run the programs, print one table, write one file; status 1 where a program failed or two sides disagree."""
    programs = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if not path.stem.startswith("_")}
    parser = argparse.ArgumentParser(prog="python benchmarks/speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"some of {', '.join(programs)}; default: all")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of measurements of each case")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    parser.add_argument("--check", action="store_true", help="status 1 where a goal is missed, too")
    options = parser.parse_args()
    unknown = sorted(set(options.programs) - set(programs))
    if unknown:
        parser.error(f"unknown program {unknown[0]!r}; choose from {', '.join(programs)}")
    failed, joined = [], Record({})
    for name in options.programs or programs:
        print(f"-- {name}", file=sys.stderr)
        record = measured(programs[name], options.repeats, options.threads)
        if record is None:
            failed.append(name)
            continue
        joined.setting = record.setting
        joined.results += record.results
    if joined.results:
        print(table(joined))
    if options.json:
        text = {"setting": joined.setting, "results": [vars(result) for result in joined.results], "failed": failed}
        Path(options.json).write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    for name in failed:
        print(f"{name} gave no figures", file=sys.stderr)
    missed = [result for result in joined.results if not result.reached]
    wrong = [result for result in joined.results if result.wrong]
    return 1 if failed or wrong or (options.check and missed) else 0


def measured(program: Path, repeats: int, threads: int) -> Record | None:
    """What a program measured; ``None`` where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        command = [
            sys.executable,
            str(program),
            "--repeats",
            str(repeats),
            "--threads",
            str(threads),
            "--json",
            str(file),
        ]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if not file.exists():
            return None
        content = json.loads(file.read_text(encoding="utf-8"))
    return Record(content["setting"], [Result(**row) for row in content["results"]])


if __name__ == "__main__":
    sys.exit(main())
