"""A run's diary: every round goes to MLflow and to pictures, the whole run to summary.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from common.config.reading import config_digest
from common.config.run import RunConfig
from common.datasets.card import DataCard, card_from_dict
from common.errors import FoveaError
from common.messages.kinds import Metrics, SiteCard
from common.package.schema import MODEL_FILE
from server.exchange.participation import Status
from server.journal.entries import (
    floor_before,
    installed_versions,
    privacy_about,
    round_entry,
    secure_about,
    site_entries,
    summed_evaluation_before,
    tasks_about,
    with_evaluations,
    with_told_later,
)
from server.journal.former_run import MODEL_CARD_FILE, MODEL_FOLDER
from server.journal.kept_rounds import KeptRound, KeptRounds, RunNote
from server.journal.metric_names import closing_metrics
from server.journal.run_pictures import RunPictures
from server.journal.tracking import Tracker
from server.measuring.central_eval import CentralResult
from server.measuring.explanation_closing import ClosingReport
from server.measuring.explanation_entries import closing_entry
from server.measuring.overlays import OverlayCase
from server.record.floor import floor_entry
from server.record.summary import (
    SCHEMA_VERSION,
    ClosingEntry,
    PackageEntry,
    RoundEntry,
    Summary,
    TrackingEntry,
    write_summary,
)
from server.report.explanation_summary import ALARMS_TAG, alarms_text
from server.report.report import METHODS, markdown, report_files, write_report
from server.rounds.coordinate import RunResult
from server.rounds.round_report import RoundReport

CARDS_FOLDER = "data_cards"
PACKAGE_TAG = "fovea.package_digest"


class Journal:
    """Records one run; give it to the rounds as their tracker, then call :meth:`finish`.

    Making one does nothing yet; :meth:`begin` writes the first entries, :meth:`go_on` takes up
    those of a run that is continued.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        out: Path,
        tracker: Tracker,
        cases: Mapping[str, Sequence[OverlayCase]],
        started_at: datetime,
    ) -> None:
        """Remember what is to be recorded, and where.

        Args:
            config: The run's.
            out: The run's folder.
            tracker: Open.
            cases: Per task, the pictures shown after every round.
            started_at: When the run began, with its time zone.
        """
        self._config = config
        self._floor = config.federation.site_floor
        self._out = out
        self._tracker = tracker
        self._pictures = RunPictures(config, out=out, tracker=tracker, cases=cases)
        self._started_at = started_at.astimezone(UTC)
        self._kept = KeptRounds(out)
        self._rounds: list[KeptRound] = []
        self._note = RunNote(
            started_at=self._started_at.isoformat(),
            tracking_run_id=tracker.run_id,
            told_until=-1,
            num_examples={},
            measured_round=0,
            measured={},
        )

    def begin(self, reference_cards: Mapping[str, DataCard]) -> None:
        """Record the configuration and, per task, the reference set's data card."""
        self._kept.clear()
        self._remember(self._note)
        self._record_plan(reference_cards)

    def go_on(self, reference_cards: Mapping[str, DataCard], *, after: int) -> None:
        """Take up the rounds until ``after``, the last one that is over.

        MLflow is told what it has not been told: the last round, when the run broke off between
        its checkpoint and its telling; all of it, when this is another MLflow run than before.

        Raises RunError or DataError when what was kept cannot be read.
        """
        known = self._kept.read_note()
        told_until = known.told_until
        if known.tracking_run_id != self._tracker.run_id:
            told_until = -1
            self._record_plan(reference_cards)
        for kept in self._kept.read(until=after):
            self._rounds.append(kept)
            if kept.entry.round > told_until:
                self._tell(kept)
        run_id = self._tracker.run_id
        self._remember(replace(known, tracking_run_id=run_id, told_until=after))

    def run_started(self, cards: Mapping[str, SiteCard]) -> None:
        """Record the data cards of the sites that are there."""
        self.sites_joined(cards)

    def sites_joined(self, cards: Mapping[str, SiteCard]) -> None:
        """Record who has come: what is known of them outlasts their leaving, and this process."""
        came = {site: card.num_examples for site, card in cards.items()}
        known = {**self._note.num_examples, **came}
        self._remember(replace(self._note, num_examples=known))
        for site, card in cards.items():
            self._keep_card(site, card_from_dict(json.loads(card.data_card_json)))

    def keep_round(self, report: RoundReport[CentralResult]) -> None:
        """Make a round's numbers and maps durable."""
        last = self._rounds[-1].entry if self._rounds else None
        kept = KeptRound(
            entry=round_entry(report, config=self._config, before=last),
            evaluations_before=report.evaluations_before,
            summed_evaluation_before=summed_evaluation_before(report, self._config),
            floor_before=floor_before(report, self._config),
            maps={} if report.central is None else report.central.overlays,
        )
        if report.central is not None:
            self._pictures.draw_model(report.central)
        self._kept.write(kept)
        self._rounds.append(kept)

    def round_finished(self, report: RoundReport[CentralResult]) -> None:
        """Tell MLflow of a round's numbers and draw what its model sees."""
        self._tell(self._rounds[-1])
        self._remember(replace(self._note, told_until=report.server_round))

    def sites_measured(self, server_round: int, evaluations: Mapping[str, Metrics]) -> None:
        """Take in what sites found of the last round's model."""
        # A run that broke off after this asks again, and some may then be away.
        earlier = self._note.measured if self._note.measured_round == server_round else {}
        found = {**earlier, **evaluations}
        self._remember(replace(self._note, measured_round=server_round, measured=found))
        self._tracker.log_evaluations(evaluations, step=server_round)
        self._tracker.log_floor(floor_entry(found, self._floor), step=server_round)

    def rounds(self) -> tuple[RoundEntry, ...]:
        """Return the entries of the finished rounds, with what the sites found a round later."""
        if not self._rounds:
            return ()
        told = [
            (kept.evaluations_before, kept.summed_evaluation_before, kept.floor_before)
            for kept in self._rounds[1:]
        ]
        is_measured = self._rounds[-1].entry.round == self._note.measured_round
        measured = self._note.measured if is_measured else {}
        told.append((measured, {}, floor_entry(measured, self._floor)))
        sites = [site.name for site in self._config.sites]
        return tuple(
            with_told_later(
                with_evaluations(kept.entry, evaluations, sites=sites),
                floor=floor,
                summed_evaluation=summed,
            )
            for kept, (evaluations, summed, floor) in zip(self._rounds, told, strict=True)
        )

    def keep(self, path: Path, *, folder: str = "") -> None:
        """Track a file of the run's folder that someone else has written."""
        self._tracker.log_file(path, folder=folder)

    def finish(
        self,
        result: RunResult,
        *,
        package: Path | None = None,
        about: PackageEntry | None = None,
        closing: ClosingReport | None = None,
    ) -> Summary:
        """Write report, pages and summary.json, hand model and pages to MLflow, and close.

        Args:
            result: How the rounds ended.
            package: The folder of the model's package; None: there is none.
            about: What is noted of the package.
            closing: What the model that is handed on was found to look at; None: not measured.
        """
        self._pictures.finish(self._rounds)
        for path in (result.files.best, result.files.last):
            if path.exists():
                self.keep(path, folder=MODEL_FOLDER)
        self.keep(self._write_model_card(result), folder=MODEL_FOLDER)
        if package is not None:
            for path in sorted(package.iterdir()):
                self.keep(path, folder=f"{MODEL_FOLDER}/{package.name}")
        summary = self._summary(result, package, about, closing)
        if summary.closing is not None:
            self._tracker.log_metrics(closing_metrics(summary.closing), step=summary.closing.round)
        for path in write_report(summary, self._out).values():
            self.keep(path)
        self.keep(write_summary(summary, self._out))
        self._tracker.describe(markdown(summary))
        self._tracker.log_tag("fovea.verdict", str(summary.verdict))
        if about is not None:
            self._tracker.log_tag(PACKAGE_TAG, about.digest)
        tracking = self._tracker.close()
        if tracking != summary.tracking:
            # MLflow went away, or came back, while the last files were handed over.
            summary = summary.model_copy(update={"tracking": tracking})
            write_summary(summary, self._out)
        return summary

    def abandon(self, error: BaseException) -> None:
        """Leave a summary.json that says FAILED and why, and close the MLflow run as failed.

        Only the project's own errors are quoted: another's message may hold anything.
        """
        try:
            self._tracker.log_tag("fovea.verdict", str(Status.FAILED))
        finally:
            tracking = self._tracker.close("FAILED")
        kind = type(error).__name__
        reason = (
            f"{kind}: {error}" if isinstance(error, FoveaError) else f"the run broke off: {kind}."
        )
        write_summary(
            self._entry(
                run=self._config.name,
                verdict=Status.FAILED,
                reasons=(reason,),
                late_replies=None,
                best_round=None,
                files={},
                tracking=tracking,
            ),
            self._out,
        )

    def _summary(
        self,
        result: RunResult,
        package: Path | None,
        about: PackageEntry | None,
        closing: ClosingReport | None,
    ) -> Summary:
        files = self._pictures.files()
        models = {"best model": result.files.best, "last model": result.files.last}
        if package is not None:
            models["model package"] = package / MODEL_FILE
        files |= {what: path for what, path in models.items() if path.exists()}
        files |= report_files(self._out)
        if closing is None or not closing.methods:
            del files[METHODS]
        return self._entry(
            run=result.run,
            verdict=result.verdict.status,
            reasons=result.verdict.reasons,
            late_replies=result.late_replies,
            best_round=result.best_round,
            files=files,
            tracking=self._tracker.entry(),
            package=about,
            closing=None if closing is None else closing_entry(closing),
        )

    def _entry(
        self,
        *,
        run: str,
        verdict: Status,
        reasons: tuple[str, ...],
        late_replies: int | None,
        best_round: int | None,
        files: Mapping[str, Path],
        tracking: TrackingEntry,
        package: PackageEntry | None = None,
        closing: ClosingEntry | None = None,
    ) -> Summary:
        return Summary(
            schema_version=SCHEMA_VERSION,
            name=self._config.name,
            run=run,
            verdict=verdict,
            reasons=reasons,
            late_replies=late_replies,
            started_at=self._started_at.isoformat(timespec="seconds"),
            wall_s=(datetime.now(UTC) - self._started_at).total_seconds(),
            seed=self._config.seed,
            config_digest=config_digest(self._config),
            versions=installed_versions(),
            tasks=tasks_about(self._config),
            privacy=privacy_about(self._config),
            secure=secure_about(self._config),
            site_floor=dict(self._floor),
            sites=site_entries(self._config, self._note.num_examples),
            best_round=best_round,
            rounds=self.rounds(),
            tracking=tracking,
            files={name: path.relative_to(self._out).as_posix() for name, path in files.items()},
            package=package,
            closing=closing,
        )

    def _record_plan(self, reference_cards: Mapping[str, DataCard]) -> None:
        self._tracker.log_config(self._config, out=self._out)
        for task, card in reference_cards.items():
            self._keep_card(f"reference-{task}", card)

    def _remember(self, note: RunNote) -> None:
        self._kept.write_note(note)
        self._note = note

    def _tell(self, kept: KeptRound) -> None:
        server_round = kept.entry.round
        self._tracker.log_round(kept.entry)
        if kept.entry.explanation is not None:
            self._tracker.log_tag(ALARMS_TAG, alarms_text(kept.entry))
        self._tracker.log_evaluations(kept.evaluations_before, step=server_round - 1)
        self._tracker.log_summed_evaluations(kept.summed_evaluation_before, step=server_round - 1)
        self._tracker.log_floor(kept.floor_before, step=server_round - 1)
        for task, maps in kept.maps.items():
            self._pictures.draw_round(task, server_round, maps)

    def _keep_card(self, name: str, card: DataCard) -> None:
        folder = self._out / CARDS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for ending, text in ((".json", card.as_json()), (".md", card.as_table())):
            path = folder / f"{name}{ending}"
            path.write_text(text, encoding="utf-8")
            self.keep(path, folder=CARDS_FOLDER)

    def _write_model_card(self, result: RunResult) -> Path:
        """Write what is needed, beside the weights, to build the network again."""
        path = self._out / MODEL_FOLDER / MODEL_CARD_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        card = {
            "run": result.run,
            "config_digest": config_digest(self._config),
            "best_round": result.best_round,
            "rounds": result.rounds_done,
            "seed": self._config.seed,
            "image_size_px": self._config.data.image_size_px,
            "tasks": {name: list(task.labels) for name, task in self._config.task_table().items()},
            "model": self._config.model.model_dump(mode="json"),
        }
        path.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        return path
