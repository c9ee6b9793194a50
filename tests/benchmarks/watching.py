"""What watching the maps adds to a central evaluation: the median share over some rounds.

``python tests/benchmarks/watching.py``, with ``--patients`` and ``--rounds``.

The demo's network and tasks on its own generated reference sets. Each round two sites' models are
compared, as the default configuration says; their change is made up, the work is the same. The
last line is a round that may be the last: the whole part and every site.
"""

import statistics
import tempfile
from pathlib import Path

import click
import numpy as np

from common.config.reading import load_config
from common.datasets.phantom_source import REFERENCE, open_phantom
from common.datasets.prepare import prepare_shard
from common.model.arrays import array_names, read_arrays
from common.model.network import build_network
from server.measuring.central_eval import CentralEvaluation, CentralResult
from server.rounds.round_report import Beside
from server.rounds.site_turns import compared_sites


@click.command()
@click.option("--patients", default=240, show_default=True, help="of each reference set")
@click.option("--rounds", default=7, show_default=True, help="the last one looks at everything")
def main(patients: int, rounds: int) -> None:
    """Measure and print."""
    config = load_config(Path("configs/experiments/demo.yaml")).run
    with tempfile.TemporaryDirectory() as folder:
        shards = {}
        for task, reference in config.reference.items():
            source = reference.source.model_copy(update={"patients": patients})
            shards[task] = prepare_shard(
                open_phantom(source, task=config.task(task), site=REFERENCE + task, seed=1),
                task=config.task(task),
                parts=config.data.reference_split.model_dump(),
                data=config.data,
                seed=1,
                out=Path(folder) / task,
            )
        network = build_network(config.model, config.task_table(), seed=1)
        arrays = read_arrays(network, array_names(network))
        small = {name: np.full_like(array, 1e-3) for name, array in arrays.items()}
        evaluation = CentralEvaluation(config, network, shards)
        shares = []
        for number in range(rounds + 1):
            at_end = number == rounds
            sites = compared_sites(config, number, may_be_last=at_end) if number else ()
            beside = Beside(may_be_last=at_end, start=arrays, changes=dict.fromkeys(sites, small))
            result = evaluation(arrays, number, beside)
            line, share = told(result)
            click.echo(f"round {number}, {len(sites)} sites: {line}")
            if number and not at_end:
                shares.append(share)
    click.echo(f"median of rounds with a sample: {statistics.median(shares):.1%} added")


def told(result: CentralResult) -> tuple[str, float]:
    """Return a round's times in words, and the share that the maps' numbers added."""
    seconds = 0.0 if result.explanation is None else result.explanation.seconds
    rest = result.wall_s - seconds
    return f"evaluation {rest:.2f} s, maps {seconds:.2f} s ({seconds / rest:.1%})", seconds / rest


if __name__ == "__main__":
    main()
