"""Derives what the connector's image installs: its own needs and theirs, pinned by the lock.

The connector reads no picture, so torch and all that comes with it stay outside its image. Run it
with the project's environment after every change of requirements.lock:

    .venv/bin/python deploy/containers/connector_requirements.py           # writes the file
    .venv/bin/python deploy/containers/connector_requirements.py --check   # exit 1 if it is stale
"""

import argparse
import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
LOCK = HERE.parents[1] / "requirements.lock"
TARGET = HERE / "connector-requirements.txt"

# What `fovea-site connector` and `fovea-site status` import; flwr without its simulation engine.
DIRECT = (
    "click",
    "cryptography",
    "flwr",
    "grpcio",
    "grpcio-health-checking",
    "numpy",
    "prometheus-client",
    "protobuf",
    "psutil",
    "pydantic",
    "pyyaml",
    "rich",
)
FORBIDDEN = ("torch", "torchvision", "timm", "mlflow", "opacus", "captum", "ray")
HEADER = """\
# Of the connector's image. Made by connector_requirements.py from requirements.lock; change those.
"""


def main() -> None:
    """Write the file, or say whether it is what would be written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    check = parser.parse_args().check
    text = HEADER + "".join(f"{pin}\n" for pin in pins(DIRECT, read_lock(LOCK)))
    if not check:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET.name} is not what requirements.lock leads to: run {Path(__file__).name}")


def read_lock(path: Path) -> dict[str, str]:
    """Return the lock's lines by canonical name."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        canonicalize_name(re.split(r"[=<>!~ ]", line, maxsplit=1)[0]): line
        for line in lines
        if line and not line.startswith("#")
    }


def pins(direct: tuple[str, ...], lock: dict[str, str]) -> list[str]:
    """Return the lock's lines of these packages and of everything that they need, sorted."""
    found: dict[str, str] = {}
    waiting = [(Requirement(name), "") for name in direct]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, needed_by = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in FORBIDDEN:
            sys.exit(f"{needed_by} needs {name}, which must not be in the connector's image.")
        if name not in lock:
            sys.exit(f"{name} (needed by {needed_by or 'the connector'}) is not in {LOCK.name}.")
        found[name] = lock[name]
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in _needs(name):
                need = Requirement(text)
                if need.marker is None or need.marker.evaluate({"extra": extra}):
                    waiting.append((need, name))
    return sorted(found.values(), key=str.lower)


def _needs(name: str) -> list[str]:
    try:
        return distribution(name).requires or []
    except PackageNotFoundError:
        sys.exit(f"{name} is not installed here: run this with the project's environment.")


if __name__ == "__main__":
    main()
