"""What the trainer and its other training processes tell each other: one JSON line at a time."""

import json
import os
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from common.config.run import Section
from common.errors import SiteError


class Group(Section):
    """How a process joins the others; the first line a worker reads."""

    rank: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(ge=1)]  # processes, the trainer among them
    device: Literal["cpu", "cuda"]
    store: str  # file through which the processes of this machine find each other
    shard: str  # folder of the prepared shard
    num_threads: Annotated[int, Field(ge=1)]  # CPU threads of each process
    timeout_s: Annotated[float, Field(gt=0)]  # waiting longer for another means that it hangs


class Job(Section):
    """The local epochs of one round; the arrays follow by broadcast."""

    config_json: str
    task: str
    seed: int
    first_step: int
    total_steps: int
    proximal_mu: float
    anchored: tuple[str, ...]  # parameters that the proximal term holds where they start


class Said(Section):
    """A line that a worker answers with."""

    state: Literal["ready", "done", "non-finite", "failed"]
    reason: str = ""  # the kind of error; its words stay in the log of the trainer


def as_line(message: Section) -> bytes:
    """Return a message as one line of JSON."""
    return json.dumps(message.model_dump(mode="json"), separators=(",", ":")).encode() + b"\n"


def read_said(line: bytes) -> Said:
    """Read a worker's answer. Raises SiteError for anything else."""
    try:
        return Said.model_validate_json(line)
    except ValidationError as error:
        raise SiteError("a training process answered something unreadable.") from error


def use_loopback() -> None:
    """Let the processes of this machine meet on the loopback interface and nowhere else.

    torch takes these from the environment alone. Without them gloo listens on the address of the
    machine's name, which the trainer's own network namespace does not have.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    # A collective that takes too long raises here; the default ends the whole process.
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "1"
