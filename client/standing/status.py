"""Is this site fit to take part, and if not, what is wrong and who can mend it?

Read from what the connector last wrote, from what the trainer says now, and from the privacy
ledger. Healthy means more than alive: connected to the coordinator, able to train, no person waited
for, and a ledger that is as it was written.
"""

from contextlib import closing
from datetime import datetime, timedelta

from pydantic import AwareDatetime
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.consent.ledger_standing import EXCEEDED_NEXT, PrivacyStanding, privacy_standing
from client.door.desk_report import DeskReport
from client.home.folders import SiteHome
from client.home.socket_file import check_length, nobody_answers
from client.standing.connector_report import ConnectorReport, read_report
from common.config.run import Section
from common.errors import LedgerError, SiteError
from common.machine.printable import printable
from common.not_covered import NOT_COVERED_LINE

TRAINER_TIMEOUT_S = 2.0
SILENT_AFTER_S = 60.0  # then the coordinator counts the site as offline
_REQUEST_MB = 1  # reports are small


class Problem(Section):
    """Something a person should know."""

    what: str
    remedy: str
    blocks: bool  # the site is not healthy while it lasts


class SiteStatus(Section):
    """How a site stands at one moment."""

    at: AwareDatetime
    site: str | None  # None: it never ran
    healthy: bool
    connected: bool
    trainer_serving: bool
    problems: tuple[Problem, ...]
    connector: ConnectorReport | None
    trainer: DeskReport | None
    privacy: PrivacyStanding | None  # None: nothing was spent, or it is another user's to see


def site_status(home: SiteHome, now: datetime) -> SiteStatus:
    """Ask the trainer and read the connector's report. Never raises for what is wrong there."""
    connector, problems = _connector(home)
    if connector is not None:
        problems += connector_problems(connector, now)
    trainer, trainer_trouble = _trainer(home)
    problems += trainer_trouble
    if trainer is not None:
        problems += trainer_problems(trainer)
    privacy, ledger_trouble = _privacy(home)
    problems += ledger_trouble
    return SiteStatus(
        at=now,
        site=(trainer.site if trainer else None) or (connector.site if connector else None),
        healthy=not any(problem.blocks for problem in problems),
        connected=connector is not None and is_connected(connector, now),
        trainer_serving=trainer is not None,
        problems=tuple(problems),
        connector=connector,
        trainer=trainer,
        privacy=privacy,
    )


def is_connected(report: ConnectorReport, now: datetime) -> bool:
    """Whether the coordinator has answered within the time that counts as online."""
    return (
        report.is_fresh(now)
        and report.state == "connected"
        and report.last_exchange_at is not None
        and now - report.last_exchange_at < timedelta(seconds=SILENT_AFTER_S)
    )


def connector_problems(report: ConnectorReport, now: datetime) -> list[Problem]:
    """Return what the connector's report says is wrong."""
    problems = []
    if not report.is_fresh(now):
        problems.append(
            Problem(
                what=f"The connector is not running; its last word is of {_moment(report)}.",
                remedy="Start it: `systemctl start fovea-connector`, or `fovea-site run`.",
                blocks=True,
            )
        )
    elif not is_connected(report, now) or report.trouble is not None:
        trouble = report.trouble or "the coordinator has not answered yet."
        problems.append(
            Problem(
                what=f"The site is not connected: {trouble}",
                remedy="The connector tries again by itself; its log has every try.",
                blocks=True,
            )
        )
    for what, expires in (
        ("The coordinator's certificate", report.certificate_expires),
        ("The federation's certificate authority", report.authority_expires),
    ):
        if expires is None:
            continue
        left = expires - now
        if left < timedelta(days=report.certificate_warning_days):
            is_over = left < timedelta(0)
            problems.append(
                Problem(
                    what=f"{what} {'expired' if is_over else 'expires'} on {expires:%Y-%m-%d}.",
                    remedy="Ask the coordinator to renew it with `fovea renew`.",
                    blocks=is_over,
                )
            )
    if report.refused_bundle is not None:
        problems.append(
            Problem(
                what=f"A run was refused because of its bundle: {report.refused_bundle}",
                remedy="Tell the coordinator, and ask who launched it.",
                blocks=False,
            )
        )
    return problems


def trainer_problems(report: DeskReport) -> list[Problem]:
    """Return what the trainer's report says is wrong."""
    problems = []
    if not report.able:
        problems += [
            Problem(
                what=f"The site cannot train: {reason}.",
                remedy="Mend what it names; `fovea-site check` looks at the rest.",
                blocks=True,
            )
            for reason in report.reasons or ("the trainer gives no reason",)
        ]
    problems += [
        Problem(
            what=f"A run waits for approval ({digest[:12]}).",
            remedy=f"Read it with `fovea-site waiting`, then `fovea-site approve {digest[:12]}`.",
            blocks=True,
        )
        for digest in report.waiting
    ]
    return problems


def status_view(status: SiteStatus) -> RenderableType:
    """Return the status as tables for a terminal."""
    facts = Table(show_header=False, box=None)
    facts.add_row("site", _text(status.site or "unknown"))
    facts.add_row("healthy", "[green]yes[/]" if status.healthy else "[red]no[/]")
    if (connector := status.connector) is not None:
        facts.add_row("coordinator", _text(connector.coordinator))
        facts.add_row("connected", "yes" if status.connected else "no")
        facts.add_row("last exchange", _seconds_ago(connector.last_exchange_at, status.at))
        facts.add_row("answers", f"{connector.answers}, of them no: {sum(_refusals(connector))}")
    facts.add_row("trainer", "serving" if status.trainer_serving else "away")
    if (trainer := status.trainer) is not None:
        facts.add_row("task", _text(trainer.task))
        facts.add_row("busy", _seconds_ago(trainer.busy_since, status.at, absent="no"))
        for run, number in trainer.last_round.items():
            facts.add_row("last round", _text(f"{run}: {number}"))
    if status.privacy is not None:
        facts.add_row("privacy", status.privacy.in_words)
        facts.add_row("", NOT_COVERED_LINE)
    if not status.problems:
        return facts
    problems = Table("", "what is wrong", "what to do", show_lines=True)
    for problem in status.problems:
        mark = "[red]blocks[/]" if problem.blocks else "[yellow]notice[/]"
        problems.add_row(mark, _text(problem.what), _text(problem.remedy))
    return Group(facts, problems)


def _text(text: str) -> Text:
    # Part of it comes from outside: it could pass for markup, or paint over the rest.
    return Text("\n".join(printable(line) for line in text.split("\n")))


def _connector(home: SiteHome) -> tuple[ConnectorReport | None, list[Problem]]:
    try:
        report = read_report(home.connector_status)
    except SiteError as error:
        return None, [Problem(what=str(error), remedy="See above.", blocks=True)]
    if report is None:
        never = Problem(
            what="The connector has never run.",
            remedy="Start it: `systemctl start fovea-connector`, or `fovea-site run`.",
            blocks=True,
        )
        return None, [never]
    return report, []


def _trainer(home: SiteHome) -> tuple[DeskReport | None, list[Problem]]:
    try:
        return _report_of(home), []
    except SiteError as error:
        away = Problem(
            what=f"The trainer does not answer: {error}",
            remedy="Start it: `systemctl start fovea-trainer`, or `fovea-site run`.",
            blocks=True,
        )
        return None, [away]


def _report_of(home: SiteHome) -> DeskReport:
    """Return what the trainer says. Raises SiteError where it says nothing."""
    check_length(home.socket)
    if not home.socket.exists():
        raise nobody_answers(home.socket)
    from client.door.service import TrainerStub  # noqa: PLC0415 - brings gRPC, for one who listens

    with closing(TrainerStub(home.socket, request_mb=_REQUEST_MB)) as stub:
        return stub.report(TRAINER_TIMEOUT_S)


def _privacy(home: SiteHome) -> tuple[PrivacyStanding | None, list[Problem]]:
    try:
        standing = privacy_standing(home)
    except LedgerError as error:
        return None, [Problem(what=str(error), remedy="See above.", blocks=True)]
    if standing is None or not standing.is_spent:
        return standing, []
    spent = Problem(
        what=f"Privacy: {EXCEEDED_NEXT}: {standing.in_words}.",
        remedy="Such a round is refused. `fovea-site ledger show` says which runs spent it; a "
        "larger budget is a line of policy.yaml, and a decision of your data-protection officer.",
        blocks=False,
    )
    return standing, [spent]


def _refusals(report: ConnectorReport) -> list[int]:
    return list(report.refusals.values())


def _moment(report: ConnectorReport) -> str:
    return report.written_at.isoformat(timespec="seconds")


def _seconds_ago(moment: datetime | None, now: datetime, *, absent: str = "never") -> str:
    return absent if moment is None else f"{(now - moment).total_seconds():.0f} s ago"
