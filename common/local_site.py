"""A site as it knows itself: its name, task and folders. No value here comes over the network."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.errors import ConfigError

SITES_VARIABLE = "FOVEA_SITES"  # environment variable: the file that describes this machine's sites


class LocalSite(BaseModel):
    """What a trainer is told by its own hospital."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    task: str
    shard: Path  # folder of the prepared shard
    state: Path  # folder for what must last between rounds
    num_threads: int = Field(ge=1)  # CPU threads for training, of each process
    processes: int = Field(default=1, ge=1)  # together, one per GPU (training/parallel.py)
    log: Path | None = None  # the site's own log, appended to; None: the process's error stream
    signing_key: Path | None = None  # Ed25519, of mode 0600; None: the site takes part in no sum
    # Public keys of the run's sites, as messages/signing.py writes them, each after its name.
    site_keys: tuple[tuple[str, str], ...] = ()


_SITES: TypeAdapter[tuple[LocalSite, ...]] = TypeAdapter(tuple[LocalSite, ...])


def write_sites(path: Path, sites: Sequence[LocalSite]) -> None:
    """Write the sites of this machine; their order is the order of Flower's partitions."""
    path.write_text(json.dumps(_SITES.dump_python(tuple(sites), mode="json"), indent=1) + "\n")


def read_sites(path: Path) -> tuple[LocalSite, ...]:
    """Read the sites of this machine. Raises ConfigError naming what is wrong."""
    try:
        return _SITES.validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}). {SITES_VARIABLE} must name a JSON file "
            "with a list of sites: name, task, shard, state, num_threads."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {place}: {first['msg']}.") from error
