"""Sentences on what the model cannot know of this picture, and what a clinician might do next."""

from collections.abc import Iterator

from common.explanation.anatomy import PADDING
from common.explanation.derived import spoken_name
from common.explanation.figures import figure, listed
from common.explanation.schema import Explanation, Sentence
from common.explanation.source import Source
from common.explanation.task_words import OTHER, TASK_WORDS, WHEN_NOT_SURE, WHEN_NOVEL
from common.explanation.where import NAMED_SHARE


def novelty_words(explanation: Explanation) -> Sentence:
    """Say how unlike the calibration's pictures this one is, or that it is not known."""
    source = Source(explanation)
    if explanation.novelty is None:
        source.rests_on("novelty")
        return source.says("novelty", "Whether this picture is unlike those it knows is not known.")
    score, limit = source.number("novelty", "score"), source.number("novelty", "limit")
    unlike = "is unlike" if source.fact("novelty", "is_novel") else "is not unlike"
    return source.says(
        "novelty",
        f"This picture {unlike} those of the calibration: its distance is {figure(score)}, the "
        f"limit {figure(limit)}.",
    )


def limits(explanation: Explanation) -> Iterator[Sentence]:
    """Say what one picture does not tell, what cannot be seen in it, and what can be named."""
    words = TASK_WORDS.get(explanation.task, OTHER)
    task = Source(explanation)
    task.text("task")
    yield task.says("limits", words.unknown)
    yield task.says("limits", words.unseen)
    if explanation.kind == "multi-label":
        source = Source(explanation)
        names = [
            spoken_name(source.text("findings", place, "name"))
            for place in range(len(explanation.findings))
        ]
        yield source.says("limits", f"It knows {listed(names)}, and can name nothing else.")
    elif explanation.answers:
        source = Source(explanation).rests_on("answers")
        yield source.says(
            "limits", f"It chooses among {listed(list(explanation.answers))}, and nothing else."
        )
    if explanation.picture.skipped:
        source = Source(explanation)
        steps = [
            source.text("picture", "skipped", place)
            for place in range(len(explanation.picture.skipped))
        ]
        yield source.says("limits", f"Left out when the picture was prepared: {listed(steps)}.")


def next_steps(explanation: Explanation, place: int) -> Iterator[Sentence]:
    """Say what to check next, given the finding at a place: the first that was described."""
    words = TASK_WORDS.get(explanation.task, OTHER)
    novelty, answers = explanation.novelty, explanation.prediction_set
    if novelty is not None and novelty.is_novel:
        yield Source(explanation).rests_on("novelty", "is_novel").says("next", WHEN_NOVEL)
        return
    if answers is not None and not answers.is_sure:
        yield Source(explanation).rests_on("prediction_set", "is_sure").says("next", WHEN_NOT_SURE)
    source = Source(explanation)
    source.text("task")
    where = explanation.findings[place].where
    if not source.fact("findings", place, "is_called"):
        yield source.says("next", words.when_not_called)
    elif where is None or next(iter(where.regions)) == PADDING:
        yield source.rests_on("findings", place, "where").says("next", words.when_called_nowhere)
    else:
        # Not the largest alone: a reader who looks there would take the others for clear.
        named = [
            name
            for name, share in where.regions.items()
            if share >= NAMED_SHARE and name != PADDING
        ]
        source.rests_on("findings", place, "where", "regions")
        said = listed(named or list(where.regions)[:1])
        yield source.says("next", words.when_called.format(where=said))
