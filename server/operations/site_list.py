"""Who belongs to the federation, who was admitted, and who is connected just now."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from common.config.run import Section
from common.errors import FoveaError
from server.operations.admitted import AdmittedSite, read_admitted
from server.operations.federation_file import read_federation
from server.operations.flower_control import Node, control_of
from server.operations.home import CoordinatorHome

State = Literal["connected", "not connected", "not admitted", "retired", "admitted"]


class ListedSite(Section):
    """A site as `fovea sites` shows it."""

    name: str
    task: str
    state: State  # "admitted" where the SuperLink cannot be asked about connections
    node_id: int | None
    online_until: datetime | None  # when its last heartbeat's time is, or was, over


@dataclass(frozen=True)
class SiteList:
    """The sites, and why connections are unknown where they are."""

    sites: tuple[ListedSite, ...]
    problem: str


def list_sites(home: CoordinatorHome) -> SiteList:
    """Return every site of the federation and every site ever admitted.

    Raises ConfigError or TrustError when the coordinator's own files cannot be read.
    """
    tasks = {site.name: site.task for site in read_federation(home.federation_file).sites}
    admitted = read_admitted(home)
    tasks |= {name: site.task for name, site in admitted.items()}
    nodes: dict[int, Node] | None
    problem = ""
    try:
        with control_of(home) as control:
            nodes = {node.node_id: node for node in control.nodes()}
    except FoveaError as error:  # who was admitted can be told without it
        nodes, problem = None, str(error)
    listed = (_listed(name, task, admitted.get(name), nodes) for name, task in tasks.items())
    return SiteList(tuple(listed), problem)


def _listed(
    name: str, task: str, site: AdmittedSite | None, nodes: dict[int, Node] | None
) -> ListedSite:
    node = nodes.get(site.node_id) if nodes and site and site.node_id is not None else None
    return ListedSite(
        name=name,
        task=task,
        state=_state(site, node, is_known=nodes is not None),
        node_id=site.node_id if site else None,
        online_until=node.online_until if node else None,
    )


def _state(site: AdmittedSite | None, node: Node | None, *, is_known: bool) -> State:
    if site is None:
        return "not admitted"
    if site.retired_at is not None:
        return "retired"
    if not is_known:
        return "admitted"
    return "connected" if node is not None and node.is_online else "not connected"
