"""What was asked and what the model says: a line per finding, which also chooses what is shown."""

from collections.abc import Iterable

from common.explanation.schema import Explanation, Finding
from common.pages.sheet import Sheet
from common.pages.viewer import first_shown


def findings(sheet: Sheet, explanation: Explanation) -> str:
    """Return the table of findings and what stands behind each probability."""
    shown = first_shown(explanation)
    is_novel = explanation.novelty is not None and explanation.novelty.is_novel
    is_likelihood = explanation.is_calibrated and not is_novel
    rows = "".join(
        _row(sheet, finding, place, is_shown=place == shown, is_likelihood=is_likelihood)
        for place, finding in _ordered(explanation)
    )
    kind = "Calibrated probability" if explanation.is_calibrated else "Probability, not calibrated"
    details = "".join(
        _detail(sheet, explanation, finding, place)
        for place, finding in enumerate(explanation.findings)
    )
    return (
        '<section aria-labelledby="asked"><h2 id="asked">What it says</h2>'
        '<form id="findings"><table class="findings"><thead><tr><th scope="col">Finding</th>'
        f'<th scope="col" colspan="2">{kind}</th></tr></thead><tbody>{rows}</tbody></table></form>'
        f"{_answers(sheet, explanation)}{_calibration(sheet, explanation)}{details}</section>"
    )


def _calibration(sheet: Sheet, explanation: Explanation) -> str:
    """Return what the probabilities rest on, and what the package's maker had to say of it."""
    found = explanation.calibrated_on
    if found is None:
        why = explanation.why_not_calibrated and sheet.words("/why_not_calibrated", "sentence")
        return f'<p class="faint">Not calibrated. {why}</p>'
    said = (
        f"Calibrated on {sheet.number('/calibrated_on/pictures', 'whole')} pictures of "
        f"{sheet.number('/calibrated_on/patients', 'whole')} patients."
    )
    if found.error is not None:
        said += (
            f" On {sheet.number('/calibrated_on/error_pictures', 'whole')} others the "
            f"probabilities lay {sheet.number('/calibrated_on/error', 'decimals')} off how often "
            "they were right, on average."
        )
    if found.note:
        said += f" {sheet.words('/calibrated_on/note', 'sentence')}"
    return f'<p class="faint">{said}</p>'


def _answers(sheet: Sheet, explanation: Explanation) -> str:
    """Return the probability of each answer where they exclude each other, "" for findings."""
    if not explanation.answers:
        return ""
    rows = " · ".join(
        f'<span class="answer">{sheet.key("/answers", name)}: '
        f"<b>{sheet.number(sheet.below('/answers', name), 'probability')}</b></span>"
        for name in explanation.answers
    )
    return f"<h3>Answer by answer</h3><p>{rows}</p>"


def _ordered(explanation: Explanation) -> list[tuple[int, Finding]]:
    """Return findings with their places, likeliest first; grades stay in their order."""
    placed = list(enumerate(explanation.findings))
    if explanation.kind == "multi-label":
        placed.sort(key=lambda one: -one[1].probability)
    return placed


def _row(sheet: Sheet, finding: Finding, place: int, *, is_shown: bool, is_likelihood: bool) -> str:
    """Return a finding's row; words of likelihood only where its probability is one."""
    at = f"/findings/{place}"
    words = sheet.number(f"{at}/probability", "likelihood") if is_likelihood else ""
    width = f"{100 * finding.probability:.1f}"
    return (
        f'<tr{" class=called" if finding.is_called else ""}><th scope="row"><label>'
        f'<input class="needs-script" type="radio" name="finding" value="{place}"'
        f"{' checked' if is_shown else ''}> {sheet.words(f'{at}/name', 'finding')}</label></th>"
        f'<td class="number"><b>{sheet.number(f"{at}/probability", "probability")}</b></td>'
        '<td><div class="bar-and-words"><svg class="bar" viewBox="0 0 100 8" '
        'preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="8"/>'
        f'<rect class="fill" width="{width}" height="8" data-width="{at}/probability"/>'
        '<path class="half" d="M50 0V8"/></svg> '
        f'<span class="faint">{words}</span>'
        "</div></td></tr>"
    )


def _detail(sheet: Sheet, explanation: Explanation, finding: Finding, place: int) -> str:
    at = f"/findings/{place}"
    said = [_where(sheet, finding, at)]
    if finding.context_share > 0:
        said.append(
            f"<p>{sheet.number(f'{at}/context_share', 'share')} of this answer comes from the "
            "picture as a whole, which no map can show.</p>"
        )
    said.append(f'<p class="faint">{_sum(sheet, explanation, finding, at)}</p>')
    return (
        f'<div class="panel" data-finding="{place}"><h3>{sheet.words(f"{at}/name", "finding")}: '
        f"where</h3>{''.join(said)}</div>"
    )


def _sum(sheet: Sheet, explanation: Explanation, finding: Finding, at: str) -> str:
    """Return how the probability comes about, so that a reader can do the sum again."""
    logit, threshold, of_map, context = (
        sheet.number(f"{at}/{name}", "decimals")
        for name in ("logit", "threshold", "map_logits", "context_logits")
    )
    said = f"Logit {logit}: the map {of_map} and the picture as a whole {context}"
    said += f"; less the grade's threshold {threshold}." if explanation.kind == "ordinal" else "."
    if explanation.temperature is not None:
        before = sheet.number(f"{at}/uncalibrated", "probability")
        temperature = sheet.number("/temperature", "decimals")
        said += f" Before calibration {before}; temperature {temperature}."
        if finding.shift:
            shift = sheet.number(f"{at}/shift", "decimals")
            said += (
                f" Training's weight of positive answers moves this logit by {shift}, which is "
                "taken off before it is divided by the temperature."
            )
    return said


def _where(sheet: Sheet, finding: Finding, at: str) -> str:
    if finding.where is None:
        return "<p>Nothing in the picture speaks for it.</p>"
    regions = _shares(sheet, finding.where.regions, f"{at}/where/regions")
    depth = _shares(sheet, finding.where.depth, f"{at}/where/depth")
    return (
        f"<p><b>{sheet.words(f'{at}/where/words', 'capital')}.</b> "
        f"What speaks for it lies in: {regions}{f'; {depth}' if depth else ''}.</p>"
        f'<p class="faint">Measured against {sheet.words(f"{at}/where/frame")}.</p>'
    )


def _shares(sheet: Sheet, names: Iterable[str], at: str) -> str:
    return " · ".join(
        f"{sheet.key(at, name)} {sheet.number(sheet.below(at, name), 'share')}" for name in names
    )
