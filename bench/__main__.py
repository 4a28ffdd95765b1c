"""python -m bench [NAME ...]: print the figures as a table, and write them to bench/results/latest.json."""

import json
import platform
import sys
import time
from pathlib import Path

from bench.figures import FIGURES, Row


def main() -> None:
    names = sys.argv[1:] or list(FIGURES)
    rows: list[Row] = []
    for name in names:
        if name not in FIGURES:
            print(f"no figure is called {name!r}; there are {', '.join(FIGURES)}")
            continue
        try:
            for row in FIGURES[name]():
                what, figure, unit, target = row
                rows.append(row)
                print(f"{what:<62} {figure:>10.2f} {unit:<12} {'to reach ' + target if target else ''}", flush=True)
        except (OSError, RuntimeError) as error:
            print(f"left out: {name}: {error}")
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    figures = [dict(zip(("what", "figure", "unit", "target"), row, strict=True)) for row in rows]
    result = {"when": int(time.time()), "machine": platform.platform(), "python": platform.python_version(), "figures": figures}
    (folder / "latest.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
