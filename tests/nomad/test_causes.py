"""Causes: the chain of a task's end, on stories that were decided and on recordings of a real Nomad."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from support import recordings
from support.deciding import NEW, OLD, Story
from support.jobs import SECOND
from taskfold import UnknownTask, deaths, inputs, replay
from taskfold import events as ev
from taskfold.model.record import Event, Finished, Gap, Observed, Placed, Record, Updated
from taskfold.nomad.causes import Explanation, explanation_of

POLICY = {"Attempts": 2, "Interval": 60 * SECOND, "Delay": SECOND, "Mode": "fail"}


def explained(story: Story, task: str, dialect: str = NEW) -> Explanation:
    return explanation_of(story.engine.history("a"), dialect, task)


def texts(explanation: Explanation) -> list[str]:
    return [f"{cause.task}: {cause.text}" for cause in explanation.causes]


def failing(dialect: str, attempts: int = 3, **more: Any) -> Story:
    """Return a story whose task web fails until its attempts are used up."""
    story = Story("web", "db", dialect=dialect, policy=POLICY, **more)
    story.run("web", "db")
    for _ in range(attempts):
        story.clock.advance(4 * SECOND)
        if story.state("web").state == "pending":
            story.say(inputs.ProcessStarted(), "web")
        story.clock.advance(SECOND)
        story.say(inputs.Exited(exit_code=7), "web")
    return story


@pytest.mark.parametrize("dialect", [OLD, NEW])
def test_a_chain_tells_each_end_and_how_many_restarts_were_used(dialect: str) -> None:
    told = texts(explained(failing(dialect), "web", dialect))

    ends = [text for text in told if "its process ended" in text]
    assert len(ends) == 3
    assert all("with exit code 7" in text for text in ends)
    assert [text.rpartition("(")[2] for text in told if "started again" in text] == [
        "1 of 2 restarts in 1m0s)",
        "2 of 2 restarts in 1m0s)",
    ]
    (verdict,) = (text for text in told if "gave it up" in text)
    assert verdict.endswith("(its policy: 2 restarts in 1m0s, then fail; this end was number 3)")
    assert [text for text in told if text.startswith("db: ")] == ["db: its sibling web had failed, and was ended"]


def test_the_chain_of_a_sibling_begins_with_the_task_that_failed() -> None:
    story = failing(NEW)
    story.say(inputs.Exited(exit_code=143, signal=15), "db")
    explanation = explained(story, "db")
    told = texts(explanation)

    assert explanation.reason == "sibling"
    assert explanation.conclusion == "db is dead: another task of its group failed: web"
    assert told.index("db: its sibling web had failed") > [t.startswith("web: its restart policy") for t in told].index(
        True
    )
    assert any(text.startswith("db: its process ended after") and text.endswith("by signal 15") for text in told)


def test_the_chain_of_a_follower_has_that_of_its_leader() -> None:
    story = Story({"Name": "lead", "Leader": True}, "web", Type="batch")
    story.run("lead", "web")
    story.say(inputs.Exited(), "lead")
    story.say(inputs.Exited(exit_code=143, signal=15), "web")

    told = texts(explained(story, "web"))
    assert "lead: its process ended after 0s, with exit code 0" in told
    assert "web: the leader of its group was dead" in told
    assert "web: the leader of its group was dead, and was ended" in texts(explained(story, "lead"))


def test_a_stop_is_the_wish_of_the_servers() -> None:
    story = Story("web")
    story.run("web")
    story.engine.update("a", {"DesiredStatus": "stop", "DesiredDescription": "alloc not needed due to job update"})
    story.say(inputs.StopRequested())
    story.say(inputs.Exited(exit_code=143, signal=15), "web")

    explanation = explained(story, "web")
    assert explanation.reason == "stop"
    wish = ": the servers asked for the end of the allocation (stop): alloc not needed due to job update"
    assert wish in texts(explanation)


def test_a_lost_node_is_the_cause_though_the_task_is_shown_as_running() -> None:
    story = Story("web")
    story.run("web")
    story.say(inputs.NodeLost())

    explanation = explained(story, "web")
    assert explanation.conclusion == "web is shown as running, but is gone: its node was lost"
    assert any("its node was lost" in text for text in texts(explanation))


def test_a_task_that_lives_is_told_with_its_restarts() -> None:
    story = failing(NEW, attempts=1)

    assert explained(story, "web").conclusion == "web is pending, and was started again 1 time"
    assert explained(story, "web").reason is None


def test_a_restart_that_somebody_asked_for_uses_no_attempt() -> None:
    story = Story("web", policy=POLICY)
    story.run("web")
    story.say(inputs.RestartRequested(reason="by hand"), "web")
    story.say(inputs.Exited(exit_code=143, signal=15), "web")

    told = texts(explained(story, "web"))
    assert "web: a restart was asked for: by hand" in told
    assert "web: it was to be started again in 0s, as somebody had asked" in told


def records_of(*events: Event) -> list[Record]:
    return [
        Record(index=n, alloc="a", version=n, task="" if n == 1 else "web", time_ns=n * SECOND, event=event)
        for n, event in enumerate((Placed(), *events), start=1)
    ]


FAILURE = (ev.Started(), ev.Terminated(exit_code=1), ev.Restarting(restart_reason="Restart within policy"))


def test_a_job_that_nobody_tells_is_noted() -> None:
    assert explanation_of(records_of(*FAILURE), NEW, "web").notes == (
        "web: the source tells no job with its restart policy",
    )


def test_a_verdict_that_the_policy_would_not_have_made_is_noted() -> None:
    story = failing(NEW, attempts=1)
    records = [
        msgspec.structs.replace(r, event=ev.NotRestarting()) if isinstance(r.event, ev.Restarting) else r
        for r in story.engine.history("a")
    ]
    explanation = explanation_of(records, NEW, "web")

    (note,) = explanation.notes
    assert "(2 restarts in 1m0s, then fail)" in note
    assert note.endswith("would have been Restarting")
    assert "its policy" not in " ".join(texts(explanation))


def test_gaps_are_told_and_noted() -> None:
    explanation = explanation_of(records_of(*FAILURE, Gap(restarts=4, restarts_before=1), Finished()), NEW, "web")

    assert "web: events were lost here, 3 restarts among them" in texts(explanation)
    assert "web: events were lost before index 5" in explanation.notes


def test_of_many_attempts_the_newest_are_told_one_by_one() -> None:
    explanation = explanation_of(records_of(*FAILURE * 9, ev.Started()), NEW, "web")

    assert sum("started again" in text for text in texts(explanation)) == 4
    assert "web: 5 earlier attempts of it left out: `taskfold history` has all" in explanation.notes


def test_late_notes_after_the_verdict_are_no_causes() -> None:
    events = (*FAILURE[:2], ev.NotRestarting(), ev.Killing(), Finished())

    assert texts(explanation_of(records_of(*events), NEW, "web"))[-1].startswith("web: its restart policy gave it up")


def test_a_task_without_a_record_is_unknown() -> None:
    with pytest.raises(UnknownTask, match="has no task 'db'; it has web"):
        explanation_of(records_of(*FAILURE), NEW, "db")


def test_any_job_and_any_texts_are_told_all_the_same() -> None:
    broken = Updated(fields={"Job": msgspec.Raw(b'{"TaskGroups": 5}'), "DesiredStatus": msgspec.Raw(b'"stop"')})
    records = records_of(*FAILURE, ev.Killing(kill_reason="\x1b[31m"), Observed(state="dead"))
    records.append(Record(index=9, alloc="a", version=9, time_ns=1, event=broken))

    assert "\x1b" not in "".join(texts(explanation_of(records, NEW, "web")))


@pytest.mark.parametrize("scenario", recordings.scenarios("1.1.2"), ids=str)
def test_every_recorded_task_is_explained_by_the_policy_of_its_job(scenario: recordings.Scenario) -> None:
    reading = replay(scenario.path / "stream.ndjson.gz")
    by_alloc: dict[str, list[Record]] = {}
    for record in reading:
        by_alloc.setdefault(record.alloc, []).append(record)
    for records in by_alloc.values():
        reasons = {death.task: death.reason for death in deaths(records, reading.dialect or "")}
        for task in {record.task for record in records} - {""}:
            explanation = explanation_of(records, reading.dialect or "", task)
            assert explanation.reason in {reasons.get(task), None}
            assert not [note for note in explanation.notes if "would have been" in note], explanation
