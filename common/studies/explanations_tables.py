"""The study's figures as Markdown: a table per set, cautions, and what corrections change."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from common.metrics.estimate import Estimate
from common.metrics.mean_estimate import mean_estimate
from common.studies.explanations_config import ExplanationsConfig
from common.studies.explanations_results import Report, Row, SetFigures

_COLUMNS = {
    "energy in ROI ↑": "energy_in_roi",
    "peak in ROI ↑": "pointing_hit",
    "IoU ↑": "iou_matched_area",
    "deletion ↓": "deletion",
    "insertion ↑": "insertion",
    "noise ↑": "stability_noise",
    "brightness ↑": "stability_brightness",
    "shift ↑": "stability_shift",
    "flip ↑": "stability_flip",
    "seeds ρ ↑": "reproducible_spearman",
    "own map ρ": "agreement_spearman",
    "own map IoU": "agreement_top_iou",
}
_WITH_INTERVAL = ("energy_in_roi", "deletion", "insertion")
# What a correction is judged by: value per case, and what an improvement is
_CORRECTED = {
    "energy in ROI": ("energy_in_roi", "more"),
    "deletion": ("deletion", "less"),
    "insertion": ("insertion", "more"),
}
_LEGEND = """
Value (what chance gives). Localisation: share of the map's energy in the expert's region, peak
in it, overlap of its strongest places of the region's area; chance is the same map laid down
anywhere. Deletion and insertion: area under the probability while places are painted over, and
brought back, in the map's order; chance is a random order. Noise, brightness, shift, flip:
structural similarity of the map before and after; chance is the map of another picture. Seeds ρ:
rank correlation with the map of a network that another seed trained. Own map: agreement with the
map that is built into the model. Sanity: whether the map is gone when all weights are random, and
how many random networks meet the localisation bar, which none should, with what they reach (lesions
lie within the anatomy, so a map of the anatomy alone is above chance). Brackets [ ]: 95 % interval
over patients. ↑ more is better, ↓ less is."""


def markdown(report: Report, config: ExplanationsConfig) -> str:
    """Return the whole report for reading."""
    parts = ["# Explanation methods compared", _LEGEND.strip()]
    for figures in report.sets:
        rows = [row for row in report.rows if row.set_name == figures.name]
        parts += list(_set_section(figures, rows, config))
    if report.left_out:
        parts.append("## Not measured")
        parts.append("\n".join(f"- {name}: {why}" for name, why in report.left_out.items()))
    return "\n\n".join(parts) + "\n"


def correction_estimates(
    plain: Row, corrected: Row, figures: SetFigures, config: ExplanationsConfig
) -> dict[str, Estimate]:
    """Return corrected minus plain, paired picture by picture, for each figure of a correction."""
    found = {}
    for heading, (key, _) in _CORRECTED.items():
        first, second = (
            np.array([np.nan if x is None else x for x in row.cases[key]], dtype=np.float64)
            for row in (plain, corrected)
        )
        found[heading] = mean_estimate(
            second - first,
            np.array(figures.patients),
            replicates=config.replicates,
            min_patients=config.min_patients,
            rng=np.random.default_rng(config.seeds[0]),
            chance=0.0,
        )
    return found


def _set_section(
    figures: SetFigures, rows: Sequence[Row], config: ExplanationsConfig
) -> Iterator[str]:
    yield f"## {figures.title} (`{figures.name}`)"
    cases = ", ".join(f"{count} {name}" for name, count in figures.cases.items())
    yield (
        f"{figures.network}. Trained on {figures.training_pictures} pictures of "
        f"{figures.size_px} px, {figures.test_pictures} others to test on; AUROC "
        f"{shown(figures.auroc)}. Measured on {cases}: {len(set(figures.patients))} patients. "
        f"Filling in the region costs the logit {shown(figures.roi_drop)}, the same shape "
        f"elsewhere {shown(figures.elsewhere_drop)}."
    )
    if figures.caution:
        yield f"Mind: {figures.caution}"
    yield _method_table([row for row in rows if not row.failure])
    if failed := [row for row in rows if row.failure]:
        yield "\n".join(f"- **{row.method}** gave no figures: {row.failure}" for row in failed)
    if noted := [row for row in rows if row.notes]:
        yield "\n".join(f"- {row.method}: {note}" for row in noted for note in row.notes)
    if table := _correction_table(figures, {row.method: row for row in rows}, config):
        yield "Corrections of gradient methods: corrected minus plain, picture by picture."
        yield table


def _method_table(rows: Sequence[Row]) -> str:
    known = [h for h, key in _COLUMNS.items() if any(key in row.estimates for row in rows)]
    lines = [_line(["method", *known, "sanity", "random at bar", "s / picture"])]
    lines.append(_line(["---", *["---:" for _ in known], "---", "---:", "---:"]))
    for row in rows:
        cells = [
            shown(
                row.estimates.get(_COLUMNS[heading]),
                with_interval=_COLUMNS[heading] in _WITH_INTERVAL,
            )
            for heading in known
        ]
        lines.append(_line([row.method, *cells, *_sanity_cells(row), _seconds(row)]))
    return "\n".join(lines)


def _sanity_cells(row: Row) -> tuple[str, str]:
    sanity = row.sanity
    if sanity is None:
        return "", ""
    last = f" (ρ {sanity.stages[-1].spearman:.2f})" if sanity.stages else ""
    own = "met" if sanity.trained_meets_bar else "not for sure"
    reached = ", ".join("–" if value is None else f"{value:.3f}" for value in sanity.random_values)
    return (
        sanity.verdict + last,
        f"{sanity.random_meet_bar} of {sanity.random_networks} ({reached}); trained: {own}",
    )


def _correction_table(
    figures: SetFigures, rows: Mapping[str, Row], config: ExplanationsConfig
) -> str:
    lines = []
    for plain, corrections in config.corrections.items():
        for corrected in corrections:
            pair = [rows.get(name) for name in (plain, corrected)]
            if any(row is None or row.failure for row in pair):
                continue
            found = correction_estimates(rows[plain], rows[corrected], figures, config)
            stable = [
                _difference(rows[plain], rows[corrected], key)
                for key in ("stability_noise", "stability_shift")
            ]
            cells = [shown(estimate, with_chance=False) for estimate in found.values()]
            lines.append(_line([f"{plain} → {corrected}", *cells, *stable]))
    if not lines:
        return ""
    headings = [f"{key} ({better} is better)" for key, (_, better) in _CORRECTED.items()]
    stable_headings = ["noise SSIM (more is better)", "shift SSIM (more is better)"]
    head = _line(["", *headings, *stable_headings])
    return "\n".join(
        [head, _line(["---", *["---:" for _ in [*headings, *stable_headings]]]), *lines]
    )


def _difference(plain: Row, corrected: Row, key: str) -> str:
    found = [row.estimates.get(key) for row in (plain, corrected)]
    values = [None if estimate is None else estimate.value for estimate in found]
    first, second = values
    return "–" if first is None or second is None else f"{second - first:+.3f}"


def shown(
    estimate: Estimate | None, *, with_interval: bool = True, with_chance: bool = True
) -> str:
    """Return an estimate as text: value, interval, chance; a dash where there is no value."""
    if estimate is None or estimate.value is None:
        return "–"
    text = f"{estimate.value:.3f}"
    if with_interval and estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    if with_chance and estimate.chance is not None:
        text += f" ({estimate.chance:.3f})"
    return text


def _seconds(row: Row) -> str:
    return "–" if row.seconds is None else f"{row.seconds:.3f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
