"""The form in which a clinician reviews an explanation; the page saves the answers as a file."""

from common.explanation.schema import Explanation
from common.pages.review import ANSWERS, LONGEST_REMARK, READER
from common.pages.sheet import Sheet
from common.pages.viewer import first_shown


def review_form(sheet: Sheet, explanation: Explanation) -> str:
    """Return the form; nothing of it leaves the page but by the reader's own saving."""
    shown = first_shown(explanation)
    choices = "".join(
        sheet.option(str(place), f"/findings/{place}/name", "finding", is_selected=place == shown)
        for place in range(len(explanation.findings))
    )
    return (
        '<section class="review needs-script" aria-labelledby="review">'
        '<h2 id="review">Your review</h2><form id="review-form">'
        '<p class="faint">Saved as a file on this machine; the page sends nothing.</p>'
        f'<p><label>Finding <select name="finding">{choices}</select></label> '
        '<span class="faint">judged by the map that is shown: <b id="reviewed-map"></b></span></p>'
        + _question("region", "Is the marked region the reason for the finding?")
        + _question("rationale", "Is the rationale right?")
        + "<fieldset><legend>How sure are you that the finding is there?</legend>"
        + _confidence("confidence_before", "before you saw this page")
        + _confidence("confidence_after", "now")
        + '<span class="faint">from <span class="scale">0</span>, surely not, to '
        '<span class="scale">100</span>, surely</span></fieldset>'
        f'<p><label>Your code as a reader <input name="reader" required pattern="{READER}" '
        'autocomplete="off" title="letters, digits, dots, dashes; not your name"></label></p>'
        f'<p><label>Remark, if you like <textarea name="remark" rows="2" '
        f'maxlength="{LONGEST_REMARK}"></textarea></label> '
        '<span class="faint">nothing that names the patient</span></p>'
        '<p><button type="submit">Save the review</button> '
        '<output id="saved" aria-live="polite"></output></p></form>'
        '<details id="saved-text" hidden>'
        "<summary>If your browser saved no file, copy this</summary>"
        '<pre id="saved-content"></pre></details></section>'
    )


def _question(name: str, words: str) -> str:
    choices = " ".join(
        f'<label><input type="radio" name="{name}" value="{answer}" required> {answer}</label>'
        for answer in ANSWERS
    )
    return f"<fieldset><legend>{words}</legend>{choices}</fieldset>"


def _confidence(name: str, words: str) -> str:
    return (
        f'<label>{words} <input type="number" name="{name}" min="0" max="100" step="1" required>'
        "</label> "
    )
