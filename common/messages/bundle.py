"""The only app bundle that this version of Fovea launches, and the only one that a site accepts.

Flower moves a run as a bundle of files. Ours names the installed apps and carries no code: every
site runs what its hospital installed and reviewed. A bundle that holds anything else is refused
before a byte of it is unpacked to disk.
"""

import hashlib
import io
import zipfile
import zlib
from functools import cache
from importlib.metadata import version

from common.errors import TrustError

CONTENT_FILE = ".info/CONTENT"  # Flower's list of the files with their digests
SETTINGS_FILE = "pyproject.toml"
MAX_BUNDLE_BYTES = 64 * 1024

_DATE = (2024, 10, 1, 0, 0, 0)  # one date for all, so that equal versions make equal bundles
_REMEDY = "The coordinator must run the same version of Fovea as this site, unchanged."


@cache
def bundle_text() -> dict[str, bytes]:
    """Return the names and contents of the bundle's files; only the version decides on them."""
    settings = f"""\
[project]
name = "fovea"
version = "{version("fovea")}"
description = "Names the installed apps; carries no code."

[tool.flwr.app]
publisher = "fovea"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
home = ""
run = ""
""".encode()
    listed = f"{SETTINGS_FILE},{hashlib.sha256(settings).hexdigest()},{len(settings) * 8}"
    return {SETTINGS_FILE: settings, CONTENT_FILE: listed.encode()}


def build_bundle() -> bytes:
    """Return the bundle in the form that Flower starts runs with."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in bundle_text().items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
    return packed.getvalue()


def check_bundle(content: bytes) -> None:
    """Raise TrustError naming the first thing that differs from this version's bundle."""
    if len(content) > MAX_BUNDLE_BYTES:
        raise TrustError(
            f"the bundle has {len(content)} bytes, expected at most {MAX_BUNDLE_BYTES}. {_REMEDY}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_names(archive.infolist())
            for name, expected in bundle_text().items():
                _check_file(archive, name, expected)
    # zipfile answers damaged and hostile archives with any of these.
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        NotImplementedError,
        ValueError,
    ) as error:
        raise TrustError(
            f"the bundle cannot be read ({type(error).__name__}). {_REMEDY}"
        ) from error


def _check_names(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.orig_filename for entry in entries]
    expected = bundle_text()
    for name in names:
        if name not in expected:
            raise TrustError(f"the bundle holds {name[:80]!r}, which has no place in it. {_REMEDY}")
        if names.count(name) > 1:
            raise TrustError(f"the bundle holds {name!r} twice. {_REMEDY}")
    for name in expected:
        if name not in names:
            raise TrustError(f"the bundle lacks {name!r}. {_REMEDY}")


def _check_file(archive: zipfile.ZipFile, name: str, expected: bytes) -> None:
    with archive.open(name) as file:
        # One byte more than expected: what unpacks to gigabytes is told apart without unpacking.
        came = file.read(len(expected) + 1)
    if came == expected:
        return
    ours, theirs = expected.splitlines(), came.splitlines()
    for number, line in enumerate(ours):
        if number >= len(theirs) or theirs[number] != line:
            found = theirs[number] if number < len(theirs) else b""
            raise TrustError(
                f"the bundle's {name}, line {number + 1}: expected "
                f"{line.decode()[:100]!r}, got {found.decode(errors='replace')[:100]!r}. {_REMEDY}"
            )
    raise TrustError(f"the bundle's {name} holds more than it should. {_REMEDY}")
