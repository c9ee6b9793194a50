"""Whose locally trained model is compared with the global one in a round: the sites take turns.

Light and pure: the round's number alone decides, never a clock.
"""

from collections.abc import Sequence

from common.config.run import RunConfig
from server.exchange.requests import is_measured


def compared_sites(config: RunConfig, server_round: int, *, may_be_last: bool) -> Sequence[str]:
    """Return the sites whose update of this round is kept until its model is measured.

    ``evaluation.explanation_sites`` of them in turn; in a round that may be the last, all of them.
    None where updates are summed under masks: there is no site's model to look at.
    """
    if config.secure_aggregation.enabled or not is_measured(config, server_round):
        return ()
    names = [site.name for site in config.sites]
    count = config.evaluation.explanation_sites
    if may_be_last or count >= len(names):
        return names if count else ()
    # Counted in measured rounds: of every second round each site must get its turn too.
    first = (server_round // config.evaluation.every_rounds - 1) * count
    return [names[(first + n) % len(names)] for n in range(count)]
