"""The written rationale: sentences made from an explanation's values, each naming what it uses.

Nothing is written that was not read through a :class:`Source`, so that a sentence cannot state
what the document does not hold.
"""

from common.explanation.certainty_words import certainty
from common.explanation.derived import described
from common.explanation.limit_words import limits, next_steps, novelty_words
from common.explanation.place_words import frame, sign_words, where_words
from common.explanation.schema import Explanation, Sentence
from common.explanation.source import Source
from common.explanation.task_words import DISCLAIMER
from common.explanation.trust_words import trust


def rationale(explanation: Explanation) -> tuple[Sentence, ...]:
    """Return the sentences, in the order of reading; the explanation's own are not looked at."""
    places = described(explanation.kind, explanation.findings, explanation.prediction_set)
    sentences = [*certainty(explanation, places), *frame(explanation, places)]
    for place in places:
        sentences += where_words(explanation, place)
        sentences += sign_words(explanation, place)
        sentences += trust(explanation, place)
    sentences += [
        novelty_words(explanation),
        *limits(explanation),
        *next_steps(explanation, places[0]),
    ]
    return (*sentences, Source(explanation).says("disclaimer", DISCLAIMER))
