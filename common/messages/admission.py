"""What a site sends to be admitted: its name and its public keys. Nothing secret."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from common.config.run import Section
from common.errors import ConfigError
from common.files.whole_file import write_whole
from common.messages.signing import public_key


class Admission(Section):
    """A site's request to be admitted, as ``admission.json``."""

    version: Literal[1]
    federation: str
    site: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    task: str
    node_key: str  # public, OpenSSH line of ECDSA P-384: who may connect
    signing_key: str  # public, ed25519:…: who signs the site's answers


def write_admission(path: Path, admission: Admission) -> None:
    """Write the file."""
    write_whole(path, admission.model_dump_json(indent=1).encode() + b"\n")


def read_admission(path: Path) -> Admission:
    """Read the file. Raises ConfigError or TrustError naming what is wrong."""
    try:
        admission = Admission.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(
            f"{path}: {key}: {first['msg']}. Ask the site for the admission.json of "
            "`fovea-site init`."
        ) from error
    # The key's one form: base64 has several texts for the same key.
    return admission.model_copy(update={"signing_key": public_key(admission.signing_key).text})
