"""Makes Flower know the admitted sites and nobody else, whatever its database says."""

import logging
from collections.abc import Iterable

from server.operations.admitted import AdmittedSite, read_admitted, register_again
from server.operations.flower_control import FlowerControl, Node
from server.operations.home import CoordinatorHome

log = logging.getLogger(__name__)


def introduce_sites(home: CoordinatorHome, control: FlowerControl) -> None:
    """Shut out every node of no admitted site, and register the sites that Flower lacks.

    Raises TrustError or RunError; once more does what is left.
    """
    # Nodes before files: admitting writes the file first, so that a site that is admitted just
    # now is no stranger. Flower would never take its key again.
    nodes = control.nodes()
    admitted = read_admitted(home).values()
    active = {site.node_key for site in admitted if site.retired_at is None}
    for node in nodes:
        if node.key not in active:
            control.unregister(node.node_id)
            extra = {"action": "node_unregistered", "site": node.name}
            log.warning("node shut out: no admitted site has its key", extra=extra)
    if _agree(admitted, nodes):
        return
    for site in register_again(home, control):
        log.warning(
            "site made known again: the database was lost, or is older than what was admitted",
            extra={"action": "site_registered", "site": site.site},
        )


def _agree(admitted: Iterable[AdmittedSite], nodes: Iterable[Node]) -> bool:
    """Say whether every active site has its node, and no retired one has any."""
    by_key = {node.key: node.node_id for node in nodes}
    return all(
        site.node_id == (by_key.get(site.node_key, -1) if site.retired_at is None else None)
        for site in admitted
    )
