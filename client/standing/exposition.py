"""Prometheus metrics of a site, on loopback: the same facts as `fovea-site status`, as numbers."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from client.home.folders import SiteHome
from client.standing.status import SiteStatus, site_status

log = logging.getLogger(__name__)


@contextmanager
def serve_metrics(home: SiteHome, port: int) -> Iterator[None]:
    """Serve the metrics meanwhile; port 0 serves none.

    A port that is taken is logged and leaves the site without metrics, not without federation.
    """
    if port == 0:
        yield
        return
    registry = CollectorRegistry()
    registry.register(_Site(home))
    try:
        server, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    except OSError as error:
        log.error(
            "no metrics: port %d of connector.yaml cannot be used (%s)",
            port,
            error.strerror,
            extra={"action": "metrics_unserved"},
        )
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Site(Collector):
    """Looks at the site anew for each scrape."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home

    def describe(self) -> list[Metric]:
        """Name nothing beforehand: the site is not asked before somebody scrapes."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of this moment."""
        return site_metrics(site_status(self._home, datetime.now(UTC)))


def site_metrics(status: SiteStatus) -> Iterator[Metric]:
    """Return a status as metrics. What is not known is left out."""
    yield _gauge("fovea_site_up", "The connector's process runs.", 1)
    yield _gauge(
        "fovea_site_healthy", "Connected, able to train, nobody waited for.", status.healthy
    )
    yield _gauge("fovea_site_connected", "The coordinator answers.", status.connected)
    yield _gauge("fovea_site_trainer_serving", "The trainer answers.", status.trainer_serving)
    memory = psutil.Process().memory_info().rss
    yield _gauge("fovea_site_connector_resident_bytes", "Memory of the connector.", memory)
    if (trainer := status.trainer) is not None:
        waiting = len(trainer.waiting)
        yield _gauge("fovea_site_waiting_approvals", "Runs that wait for a person.", waiting)
    if (report := status.connector) is None:
        return
    if report.last_exchange_at is not None:
        seconds = (status.at - report.last_exchange_at).total_seconds()
        yield _gauge("fovea_site_last_exchange_seconds", "Since the coordinator answered.", seconds)
    expiry = GaugeMetricFamily(
        "fovea_site_certificate_expiry_seconds", "Until a certificate expires.", labels=["which"]
    )
    for which, expires in (
        ("server", report.certificate_expires),
        ("authority", report.authority_expires),
    ):
        if expires is not None:
            expiry.add_metric([which], (expires - status.at).total_seconds())
    yield expiry
    yield _counter("fovea_site_rounds_answered", "Rounds trained and sent.", report.rounds)
    yield _counter(
        "fovea_site_refused_bundles", "Runs with another bundle.", report.refused_bundles
    )
    yield _counter("fovea_site_received_bytes", "Content received.", report.bytes_in)
    yield _counter("fovea_site_sent_bytes", "Content sent.", report.bytes_out)
    refusals = CounterMetricFamily(
        "fovea_site_refusals", "Answers that say no, by code.", labels=["code"]
    )
    for code, number in report.refusals.items():
        refusals.add_metric([code], number)
    yield refusals


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=float(value))


def _counter(name: str, meaning: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(name, meaning, value=value)
