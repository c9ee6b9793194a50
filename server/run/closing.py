"""When the rounds are over: what the model that the run hands on looks at, measured once."""

import logging
from collections.abc import Mapping, Sequence

from common.config.run import RunConfig
from common.datasets.shard import Shard
from common.errors import RunError
from common.messages.durable import read_array_file
from common.model.arrays import write_arrays
from common.model.network import Network
from server.exchange.participation import Status
from server.measuring.explanation_closing import ClosingReport, closing_look
from server.record.summary import RoundEntry
from server.rounds.coordinate import RunResult
from server.run.untrained import untrained_tasks

log = logging.getLogger(__name__)


def look_at_last(
    config: RunConfig,
    result: RunResult,
    *,
    network: Network,
    reference: Mapping[str, Shard],
    rounds: Sequence[RoundEntry],
) -> ClosingReport | None:
    """Measure the run's best model, or its last where none was best: the one that is packaged.

    Args:
        config: The run's.
        result: How the rounds ended.
        network: Of the run, on the device to be used; its weights are overwritten.
        reference: The reference set of every task of the run.
        rounds: Their entries: a task that nobody has trained is left out.

    Returns None for a run that brought no model, and for one that a person has stopped: it can be
    continued, and who stops a run does not want to wait.

    Raises:
        DataError: The model or a reference set cannot be read.
        RunError: The model's file does not say which round it is of.
        ModelError: The model is not of this network.
    """
    files = result.files
    path = next((path for path in (files.best, files.last) if path.exists()), None)
    if path is None or result.was_stopped or result.verdict.status is Status.FAILED:
        return None
    arrays, note = read_array_file(path)
    server_round = note.get("round")
    if not isinstance(server_round, int):
        raise RunError(f"{path}: does not say which round it is of. Start the run anew.")
    write_arrays(network, arrays)
    found = closing_look(
        network,
        reference,
        config=config,
        server_round=server_round,
        left_out=untrained_tasks(
            config,
            list(arrays),
            rounds,
            participation=result.participation,
            until=server_round,
        ),
    )
    log.info(
        "model looked at",
        extra={
            "action": "model_looked_at",
            "seconds": round(found.signs_seconds + found.methods_seconds, 2),
        },
    )
    return found
