"""A further training process of a site: reads jobs, one JSON line each, until the trainer ends.

Started by parallel.py as ``python -m client.training.parallel_worker``. Its standard input is the
thread it hangs by: when that closes, the trainer is gone, and so is this process at once.
"""

import logging
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

from client.training.local_step import NonFiniteLossError
from client.training.parallel_job import Group, Job, Said, as_line
from client.training.parallel_rank import Rank
from common.machine import log as logs

log = logging.getLogger(__name__)


def main() -> None:
    """Join the group that the first line names, then train until the input ends."""
    # The trainer decides when to end: it drains, and a signal to the whole group must not cut it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _own_output()
    logs.configure(level=logging.INFO, as_json=True, stream=sys.stderr)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    group = Group.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_listen, args=(sys.stdin.buffer, lines), daemon=True).start()
    _say(answers, Said(state="ready"))
    rank = Rank(group)
    try:
        rank.join()
        while True:
            job = Job.model_validate_json(lines.get())
            try:
                rank.train(job)
            except NonFiniteLossError:
                _say(answers, Said(state="non-finite"))
            else:
                _say(answers, Said(state="done"))
    except Exception as error:
        # The outermost frame of a process: what went wrong is logged here, its kind is told.
        log.exception("training process failed", extra={"action": "process_failed"})
        _say(answers, Said(state="failed", reason=type(error).__name__))
        sys.stderr.flush()
        os._exit(1)  # torch's threads may wait for a process that is gone


def _listen(lines_in: BinaryIO, lines: "queue.SimpleQueue[bytes]") -> None:
    for line in lines_in:
        lines.put(line)
    # The trainer is gone; the main thread may be inside a step that would wait for it.
    os._exit(0)


def _own_output() -> BinaryIO:
    """Return standard output for answers alone; whatever libraries print goes to the log."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _say(answers: BinaryIO, said: Said) -> None:
    answers.write(as_line(said))
    answers.flush()


if __name__ == "__main__":
    main()
