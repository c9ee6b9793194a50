"""A Python that other users can start, for processes that run under users of their own."""

import shutil
import stat
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

# Not needed to run anything of ours, and most of an installation's size.
LEFT_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "__pycache__")


@dataclass(frozen=True)
class Interpreter:
    """How a user starts Python."""

    command: tuple[str, ...]
    environment: dict[str, str]


def reachable_interpreter(folder: Path) -> Interpreter:
    """Return the running Python, or below ``folder`` a copy of it where others cannot reach it.

    An interpreter below somebody's home folder is its owner's alone.
    """
    if all(_others_may_enter(parent) for parent in Path(sys.executable).resolve().parents):
        return Interpreter((sys.executable,), {})
    prefix = Path(sys.base_prefix)
    copy = folder / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not copy.exists():
        library = Path(sysconfig.get_path("stdlib")).relative_to(prefix)
        ignored = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(prefix / library, copy / library, symlinks=True, ignore=ignored)
        for shared in (prefix / "lib").glob("libpython*"):
            shutil.copy2(shared, copy / "lib", follow_symlinks=True)
        (copy / "bin").mkdir()
        shutil.copy2(prefix / "bin" / version, copy / "bin" / version)
    packages = sysconfig.get_path("purelib")
    return Interpreter(
        (str(copy / "bin" / version),),
        {
            "PYTHONHOME": str(copy),
            "PYTHONPATH": f"{REPOSITORY}:{packages}",
            "LD_LIBRARY_PATH": str(copy / "lib"),  # its own libpython lies beside it
        },
    )


def _others_may_enter(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)
