"""Writes contrib/, or says what in it has drifted."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pbal.__main__ import arguments
from pbal.editors import shells, textmate, vim
from pbal.editors.words import words

DIRECTORY: Final = Path(__file__).resolve().parent.parent.parent / "contrib"
_MADE: Final = "Made by python -m pbal.editors from the declarations of pbal"


def files() -> dict[str, str]:
    """Every file, by its path below contrib/."""
    known = words()
    tree = list(shells.commands(arguments()))
    return {
        **{f"vim/{path}": text for path, text in vim.files(known, _MADE).items()},
        "textmate/pbal.tmLanguage.json": textmate.grammar(known, _MADE),
        "completion/bash/pbal": shells.bash(known, tree, _MADE),
        "completion/zsh/_pbal": shells.zsh(known, tree, _MADE),
    }


def stale(directory: Path) -> list[str]:
    """Names of files that are missing, or are not what would be written."""
    return [
        name for name, text in files().items() if not (directory / name).is_file() or (directory / name).read_text(encoding="utf-8") != text
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or check them. Exit status: 0, or 1 for a file that has drifted."""
    parser = argparse.ArgumentParser(prog="python -m pbal.editors", description="Write contrib/ from the declarations.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file has drifted")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where the files are")
    options = parser.parse_args(argv)
    if options.check:
        drifted = stale(options.directory)
        for name in drifted:
            print(f"{options.directory / name}: drifted; python -m pbal.editors writes it", file=sys.stderr)
        return 1 if drifted else 0
    for name, text in files().items():
        (options.directory / name).parent.mkdir(parents=True, exist_ok=True)
        (options.directory / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
