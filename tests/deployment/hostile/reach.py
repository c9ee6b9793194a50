"""Runs as the connector's user: tries everything that such a process could try on its machine.

    python reach.py HOME DATA TRAINER_PID

Prints one line for each thing that succeeded; silence means that all was refused.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path


def main() -> None:
    """Try everything."""
    home, data, pid = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    trainer = home / "trainer"
    named = (
        "site.yaml",
        "policy.yaml",
        "run-keys.pub",
        "signing.key",
        "audit/audit.jsonl",
        "state/approvals",
        "state/answers",
        "shard/images.npy",
    )
    _try("list the trainer's folder", lambda: os.listdir(trainer))
    _try("list the pictures", lambda: os.listdir(data))
    for name in named:
        _try(f"read {name}", lambda name=name: (trainer / name).read_bytes())
        _try(f"write {name}", lambda name=name: (trainer / name).open("ab").close())
    _try("make a policy", lambda: (trainer / "policy.yaml.new").write_text("tasks: []"))
    _try("pause the site", (trainer / "state" / "paused").touch)
    _try("rename the trainer's folder", lambda: trainer.rename(home / "gone"))
    _try("take the socket away", (home / "run" / "trainer.sock").unlink)
    _try("read the trainer's memory", lambda: Path(f"/proc/{pid}/mem").open("rb").close())
    _try("read its environment", lambda: Path(f"/proc/{pid}/environ").read_bytes())
    _try("follow its files", lambda: os.listdir(f"/proc/{pid}/fd"))
    _try("end the trainer", lambda: os.kill(pid, signal.SIGTERM))


def _try(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except OSError:
        return  # refused, as it should be
    sys.stdout.write(f"{what}\n")


if __name__ == "__main__":
    main()
