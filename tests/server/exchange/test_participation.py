from server.exchange.participation import Outcome, Participation, Reply, Status, verdict


def a_round(number: int, *, changed: bool = True, **outcomes: tuple[Outcome, str]) -> Participation:
    replies = tuple(Reply(site, *outcome) for site, outcome in outcomes.items())
    return Participation(number, replies, changed)


OK = (Outcome.ANSWERED, "")


def test_a_run_in_which_everyone_answered_is_complete() -> None:
    rounds = [a_round(1, a=OK, b=OK), a_round(2, a=OK, b=OK)]

    judged = verdict(rounds, sites=["a", "b"], required_sites=[])

    assert (judged.status, judged.reasons) == (Status.COMPLETE, ())


def test_a_failing_site_makes_it_partial_and_is_named_once() -> None:
    failed = (Outcome.FAILED, "out of memory")
    rounds = [a_round(1, a=OK, b=failed), a_round(2, a=OK, b=failed), a_round(3, a=OK, b=OK)]

    judged = verdict(rounds, sites=["a", "b"], required_sites=[])

    assert judged.status is Status.PARTIAL
    assert judged.reasons == ("site b failed in rounds 1, 2: out of memory.",)


def test_only_required_sites_count_when_some_are_named() -> None:
    rounds = [a_round(1, a=OK, b=(Outcome.REFUSED, "no training pictures"))]

    assert verdict(rounds, sites=["a", "b"], required_sites=["a"]).status is Status.COMPLETE
    assert verdict(rounds, sites=["a", "b"], required_sites=["b"]).status is Status.PARTIAL


def test_a_complete_run_also_names_the_optional_sites_that_are_missing_and_why() -> None:
    refused = (Outcome.REFUSED, "paused by a person")
    rounds = [a_round(1, north=OK), a_round(2, north=OK, valley=refused)]

    judged = verdict(rounds, sites=["north", "valley"], required_sites=["north"])

    assert judged.status is Status.COMPLETE
    assert judged.reasons == (
        "optional site valley did not answer in round 1: it was not there.",
        "optional site valley refused in round 2: paused by a person.",
    )


def test_a_partial_run_names_required_and_optional_sites() -> None:
    failed = (Outcome.FAILED, "out of memory")
    rounds = [a_round(1, coast=OK, north=failed, valley=failed)]

    judged = verdict(rounds, sites=["coast", "valley", "north"], required_sites=["north"])

    assert judged.status is Status.PARTIAL
    assert judged.reasons == (
        "site north failed in round 1: out of memory.",
        "optional site valley failed in round 1: out of memory.",
    )


def test_a_site_that_never_came_is_named() -> None:
    judged = verdict([a_round(1, a=OK)], sites=["a", "b"], required_sites=[])

    assert judged.reasons == ("site b did not answer in round 1: it was not there.",)


def test_a_run_that_never_changed_the_model_failed() -> None:
    rounds = [a_round(1, changed=False, a=(Outcome.REJECTED, "non-finite"))]

    judged = verdict(rounds, sites=["a"], required_sites=[])

    assert judged.status is Status.FAILED
    assert judged.reasons == ("site a sent an unusable update in round 1: non-finite.",)


def test_a_run_without_rounds_failed() -> None:
    assert verdict([], sites=["a"], required_sites=[]).status is Status.FAILED


def test_a_round_with_too_few_updates_makes_it_partial() -> None:
    rounds = [a_round(1, a=OK), a_round(2, changed=False, a=OK)]

    judged = verdict(rounds, sites=["a"], required_sites=[])

    assert judged.status is Status.PARTIAL
    assert judged.reasons == ("too few updates in round 2: the model stayed.",)
