"""A digest of the reviewed code that runs at a site, so that both ends know it is the same."""

import hashlib
from functools import cache
from pathlib import Path

PACKAGES = ("client", "common")  # what a site runs of Fovea


@cache
def site_code_digest() -> str:
    """Return the SHA-256 over the names and contents of the site's modules, in hexadecimal."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()
