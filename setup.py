"""Compiles the hot path where PBAL_COMPILE=1 is set; without it there is nothing here, and pyproject.toml says everything.

    pip install .                     pure Python
    PBAL_COMPILE=1 pip install .      the modules of pbal/build.py compiled by mypyc; needs a C compiler and Python.h

mypyc comes with mypy. pip learns that it is needed from setup_requires, so who installs pure Python does not fetch it. It
is imported when building begins: the same file is run to ask for requirements and metadata, when it may not be there yet.
"""

import os
import runpy
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "compiled"
"""Apart from a pure build's, and emptied first: what a longer list left there is not to get into a wheel."""

OPTIMIZED = os.environ.get("PBAL_OPT_LEVEL", "3")
"""How much the C compiler optimizes. Tests of the compiled build do not need it, and it is three quarters of the compiler's time."""

CHECKS = ["--config-file=", "--ignore-missing-imports"]
"""mypyc infers types with mypy. How strict the sources are is `make types`' affair, and build isolation hides dependencies."""


class Compiled(Distribution):
    """A distribution for one platform: it has extension modules, though they are not known yet."""

    def has_ext_modules(self) -> bool:
        return True


class Build(build):
    """build, from nothing."""

    def run(self) -> None:
        shutil.rmtree(BUILD, ignore_errors=True)
        super().run()


class Compile(build_ext):
    """build_ext, of what mypyc makes of the list."""

    def finalize_options(self) -> None:
        if not self.distribution.ext_modules:
            self.distribution.ext_modules = _extensions()
        super().finalize_options()


def _extensions() -> list:
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        sys.exit("PBAL_COMPILE=1 needs Python.h, from python3-dev or the like. Without PBAL_COMPILE pbal installs as pure Python")
    from mypyc.build import mypycify

    modules = runpy.run_path(str(ROOT / "pbal" / "build.py"))["COMPILED"]
    paths = [f"{module.replace('.', '/')}.py" for module in modules]
    return mypycify([*CHECKS, *paths], target_dir=str(BUILD / "c"), group_name="pbal", opt_level=OPTIMIZED, debug_level="1")


if os.environ.get("PBAL_COMPILE", "0") not in ("", "0"):
    setup(
        distclass=Compiled,
        cmdclass={"build": Build, "build_ext": Compile},
        setup_requires=["mypy>=2.4,<3"],
        options={"build": {"build_base": os.path.relpath(BUILD)}},
    )
else:
    setup()
