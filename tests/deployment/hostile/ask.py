"""Runs as the connector's user: puts requests to the trainer's door, and writes what comes back.

    python ask.py SOCKET FOLDER

Every file ``*.request`` of the folder is asked, in the order of names; the answer becomes
``*.answer`` beside it.
"""

import sys
from pathlib import Path

from client.door.service import TrainerStub


def main() -> None:
    """Ask everything."""
    socket, folder = Path(sys.argv[1]), Path(sys.argv[2])
    stub = TrainerStub(socket, request_mb=100)
    for request in sorted(folder.glob("*.request")):
        request.with_suffix(".answer").write_bytes(stub.ask(request.read_bytes(), 60.0))
    stub.close()


if __name__ == "__main__":
    main()
