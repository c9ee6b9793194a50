"""The other hospitals whose updates this one adds its own to, each known by its key's fingerprint.

The coordinator tells every site the others' keys; a person who has compared a fingerprint by
telephone pins it here. Then the coordinator cannot put sites of its own making in their place.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from client.home.ownership import as_owner, make_folder
from common.errors import ConfigError, TrustError
from common.files.whole_file import write_whole
from common.files.yaml_file import read_yaml
from common.messages.manifest import Manifest
from common.messages.signing import PublicKey, public_key

_HEADER = (
    "# Sites that this one adds its updates to, and the fingerprints of their keys.\n"
    "# Changed by `fovea-site peers add` and `fovea-site peers remove`; the audit log keeps it.\n"
)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_DIGITS = re.compile(r"[0-9a-f]{32}")


def fingerprint_of(text: str) -> str:
    """Return a fingerprint as PublicKey.fingerprint writes it, from however a person typed it.

    Raises ConfigError for anything but 32 hexadecimal digits, with or without spaces.
    """
    digits = re.sub(r"[\s:-]", "", text).lower()
    if not _DIGITS.fullmatch(digits):
        raise ConfigError(
            f"{text[:60]!r} is no fingerprint: expected 32 hexadecimal digits, such as "
            "'1a2b 3c4d 5e6f 7081 92a3 b4c5 d6e7 f809'. The other hospital reads its own out with "
            "`fovea-site peers show`."
        )
    return " ".join(digits[start : start + 4] for start in range(0, 32, 4))


def check_name(name: str) -> str:
    """Return a site's name. Raises ConfigError for one that no site can have."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:60]!r} is no name of a site: expected small letters, digits and hyphens. "
            "The run's manifest names the sites: `fovea-site waiting`."
        )
    return name


def read_pins(path: Path) -> dict[str, str]:
    """Return the fingerprint of each pinned site, by name; nothing where no file is.

    Raises ConfigError naming the line that is wrong.
    """
    with as_owner(path):
        if not path.exists():
            return {}
        pins = {}
        for name, fingerprint in read_yaml(path).items():
            if not isinstance(fingerprint, str):
                raise ConfigError(f"{path}: {name}: expected a fingerprint, in quotes.")
            try:
                pins[check_name(name)] = fingerprint_of(fingerprint)
            except ConfigError as error:
                raise ConfigError(f"{path}: {name}: {error}") from error
    return dict(sorted(pins.items()))


def write_pins(path: Path, pins: Mapping[str, str]) -> None:
    """Keep these sites and no others, durably; the file is its folder's owner's, mode 0600."""
    lines = "".join(f'"{name}": "{fingerprint}"\n' for name, fingerprint in sorted(pins.items()))
    content = _HEADER + (lines or "{}\n")
    with as_owner(path):
        make_folder(path.parent)
        write_whole(path, content.encode(), mode=0o600)


def pinned_keys(pins: Mapping[str, str], manifest: Manifest, *, site: str) -> dict[str, PublicKey]:
    """Return the key of every other site of a run, each pinned here.

    Raises TrustError naming the first site that is not pinned, or whose key is another.
    """
    keys = {}
    for other in manifest.sites:
        if other.name == site:
            continue
        key = public_key(other.signing_key)
        if other.name not in pins:
            raise TrustError(
                f"site {other.name} of the run is not pinned here. Call that hospital, compare "
                f"{key.fingerprint!r} with what `fovea-site peers show` says there, and type "
                f'`fovea-site peers add {other.name} "{key.fingerprint}"` if they are the same.'
            )
        if pins[other.name] != key.fingerprint:
            raise TrustError(
                f"site {other.name} is pinned with fingerprint {pins[other.name]!r}, the run says "
                f"{key.fingerprint!r}. Call that hospital: if it has a new key, remove the old pin "
                f"with `fovea-site peers remove {other.name}` and add the new one."
            )
        keys[other.name] = key
    return keys
