"""Where picture and model come from, and how new the picture is to the model."""

from common.explanation.schema import Explanation
from common.pages.sheet import Sheet


def lineage(sheet: Sheet, explanation: Explanation) -> str:
    """Return the list of what the answer rests on."""
    trained = (
        "not known: sites send sums only"
        if explanation.model.training_pictures is None
        else sheet.number("/model/training_pictures", "whole")
    )
    skipped = "; ".join(
        sheet.words(f"/picture/skipped/{place}")
        for place in range(len(explanation.picture.skipped))
    )
    versions = "/model/versions"
    lines = {
        "Novelty of the picture": _novelty(sheet, explanation),
        "Picture": f"{sheet.number('/picture/width_px', 'whole')} × "
        f"{sheet.number('/picture/height_px', 'whole')} px; the model saw a square of "
        f"{sheet.number('/picture/size_px', 'whole')} px",
        "Preparation": skipped and f"could not be done: {skipped}",
        "Picture's digest": f"<code>{sheet.words('/picture/sha256', 'digest')}</code>",
        "Model": f"run {sheet.words('/model/run')}, round {sheet.number('/model/round', 'whole')}",
        "Package": explanation.model.package_digest
        and f"<code>{sheet.words('/model/package_digest', 'digest')}</code>",
        "Weights": f"<code>{sheet.words('/model/weights_sha256', 'digest')}</code>",
        "Configuration": f"<code>{sheet.words('/model/config_digest', 'digest')}</code>",
        "Trained by": f"{sheet.number('/model/sites', 'whole')} sites",
        "Training pictures": trained,
        "Calibrated on": sheet.words("/model/reference"),
        "Made": sheet.words("/made_at", "moment"),
        "Versions": ", ".join(
            f"{sheet.key(versions, name)} {sheet.words(sheet.below(versions, name))}"
            for name in explanation.model.versions
        ),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{line}</dd>" for name, line in lines.items() if line)
    return (
        '<section aria-labelledby="lineage"><h2 id="lineage">Picture and model</h2>'
        f'<dl class="lineage">{rows}</dl></section>'
    )


def _novelty(sheet: Sheet, explanation: Explanation) -> str:
    if explanation.novelty is None:
        return "not known: no reference was kept with the model"
    return (
        f"{sheet.number('/novelty/score', 'decimals')}; from "
        f"{sheet.number('/novelty/limit', 'decimals')} on a picture is called unlike what it knows"
    )
