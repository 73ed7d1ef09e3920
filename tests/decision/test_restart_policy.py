"""The restart policy decides as Nomad's two clients do, and says beforehand where it will surprise.

The `reschedule_cases` of the vectors are out of scope: what happens on the servers is the embedder's business.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.recordings import vector
from taskfold.decision.restart import (
    REQUESTED,
    VERDICTS,
    Hook,
    SimulatedFailure,
    TaskEnd,
    Tracker,
    UsedUp,
    Verdict,
    advice_on,
    decide_restart,
    default_policy,
    most_counted,
    restarts_after_success,
    simulate,
    used_up,
)
from taskfold.model.dialect import DIALECTS
from taskfold.model.policy import (
    DELAYED,
    EXCEEDED,
    MINIMUM_INTERVAL_NS,
    MODE_DELAY,
    MODE_FAIL,
    NO_RESTARTS,
    SUCCEEDED,
    UNRECOVERABLE,
    WITHIN_POLICY,
    RestartPolicy,
)
from taskfold.testing import strategies as kit

SECOND_NS = 1_000_000_000
VECTORS = vector("restart_policy")
OLD, NEW = ("0.5.0", "0.5.6"), ("1.1.2",)


def dialects_of(labels: list[str]) -> list[str]:
    """Return the dialects that the labels of a case stand for, such as ``v0.5.6`` or ``main (v0.8.0+)``."""
    found: list[str] = []
    for label in labels:
        assert label == "v0.5.6" or label.startswith("main"), label
        found += OLD if label == "v0.5.6" else NEW
    return found


def decide(
    policy: RestartPolicy,
    result: TaskEnd,
    *,
    dialect: str,
    tracker: Tracker = Tracker(0),  # noqa: B008 - immutable
    after_success: bool = True,
    now_ns: int = 0,
    seed: int = 0,
) -> Verdict:
    return decide_restart(
        policy,
        tracker,
        result,
        after_success=after_success,
        now_ns=now_ns,
        rng=random.Random(seed),
        dialect=DIALECTS[dialect],
    )


# --- the vectors ---


def policy_of(fields: dict[str, Any]) -> RestartPolicy:
    return RestartPolicy(
        attempts=fields["Attempts"], interval_ns=fields["Interval"], delay_ns=fields["Delay"], mode=fields["Mode"]
    )


def result_of(told: dict[str, Any]) -> TaskEnd:
    """Return the input of a step; one of several parts has what each part says."""
    fields: dict[str, Any] = {}
    for part in told["of"] if told["kind"] == "all" else [told]:
        fields |= FIELDS_OF[part["kind"]](part)
    return TaskEnd(**fields)


FIELDS_OF: dict[str, Any] = {
    "exit": lambda part: {
        "exit_code": part["exit_code"],
        "signal": part["signal"] or 0,
        "error": part["err"] or "",
    },
    "start_error": lambda part: {"start_failed": True, "recoverable": part["recoverable"]},
    "restart_triggered": lambda part: {"restart": "failed" if part["failure"] else "asked"},
}


def has_delay(decided: Verdict, expected: dict[str, Any], policy: RestartPolicy, now_ns: int) -> bool:
    """Tell whether a delay is of the kind, and within the bounds, that a step expects."""
    delay_ns = decided.delay_ns
    if expected["kind"] == "exact":
        return bool(delay_ns == expected["ns"])
    if expected["kind"] == "jitter":
        return bool(expected["base_ns"] <= delay_ns < expected["base_ns"] * 1.25)
    assert expected["kind"] == "until_window_end"
    until_ns = decided.tracker.window_start_ns + policy.interval_ns - now_ns
    return delay_ns == until_ns and bool(expected["gt_ns"] < delay_ns <= expected["lte_ns"])


TRACKER_RUNS = [
    pytest.param(case, dialect, id=f"{case['name']} in {dialect}")
    for case in VECTORS["tracker_cases"]
    for dialect in dialects_of(case["applies"])
]


@pytest.mark.parametrize(("case", "dialect"), TRACKER_RUNS)
def test_every_tracker_case_of_the_vectors(case: dict[str, Any], dialect: str) -> None:
    """A case about hooks has the job's type as its mode, by an accident of its source: it is not validated."""
    policy, lifecycle = policy_of(case["policy"]), case["lifecycle"] or {"Hook": "", "Sidecar": False}
    after_success = restarts_after_success(
        case["job_type"], lifecycle["Hook"], sidecar=lifecycle["Sidecar"], dialect=dialect
    )
    tracker = Tracker(0)
    for step in case["steps"]:
        decided = decide(
            policy,
            result_of(step["input"]),
            dialect=dialect,
            tracker=tracker,
            after_success=after_success,
            now_ns=step["at_ns"],
        )
        tracker = decided.tracker
        assert decided.decision == step["decision"]
        # A step that does not name its delay, reason or count asserts none.
        assert "delay" not in step or has_delay(decided, step["delay"], policy, step["at_ns"])
        assert decided.reason == step.get("reason", decided.reason)
        assert tracker.count == step.get("count_after", tracker.count)


def test_the_vectors_apply_to_both_clients() -> None:
    names = {case["name"] for case in VECTORS["tracker_cases"]}

    assert len(names) == len(VECTORS["tracker_cases"])
    assert {run.values[1] for run in TRACKER_RUNS} == set(DIALECTS)


@pytest.mark.parametrize(("label", "dialects"), [("v0.5.6", OLD), ("v0.8.0 to main", NEW)])
@pytest.mark.parametrize("types", ["service,system", "batch"])
def test_the_default_of_a_type_of_job(label: str, dialects: tuple[str, ...], types: str) -> None:
    expected = policy_of(VECTORS["defaults"][label][types])

    for dialect in dialects:
        for job_type in types.split(","):
            assert default_policy(job_type, dialect) == expected
            assert expected.errors() == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_sysbatch_has_no_default(dialect: str) -> None:
    assert "returns null" in VECTORS["defaults"]["sysbatch"]
    assert default_policy("sysbatch", dialect) is None


@pytest.mark.parametrize("case", VECTORS["validation_cases"], ids=lambda case: case["name"])
def test_every_validation_case_of_the_vectors(case: dict[str, Any]) -> None:
    errors = policy_of(case["policy"]).errors()

    assert errors == case.get("exact", [])
    for part in case["errors_contain"]:
        assert any(part in error for error in errors)


def test_the_least_interval_is_valid_and_a_nanosecond_less_is_not() -> None:
    assert VECTORS["minimum_interval_ns"] == MINIMUM_INTERVAL_NS
    assert RestartPolicy(interval_ns=MINIMUM_INTERVAL_NS, mode="fail").errors() == []
    assert RestartPolicy(interval_ns=MINIMUM_INTERVAL_NS - 1, mode="fail").errors() == [
        "Interval can not be less than 5s (got 4.999999999s)"
    ]


def test_every_error_of_a_policy_is_told_in_nomads_order() -> None:
    policy = RestartPolicy(attempts=0, interval_ns=-1, delay_ns=SECOND_NS, mode="x")

    assert [error.split()[0] for error in policy.errors()] == ["Unsupported", "Restart", "Interval", "Nomad"]


def test_attempts_times_delay_may_fill_the_interval_but_not_more() -> None:
    fits = RestartPolicy(attempts=2, interval_ns=10 * SECOND_NS, delay_ns=5 * SECOND_NS, mode="fail")
    too_long = RestartPolicy(attempts=2, interval_ns=10 * SECOND_NS, delay_ns=5 * SECOND_NS + 1, mode="fail")

    assert fits.errors() == []
    assert len(too_long.errors()) == 1


def test_negative_numbers_pass_nomad_and_are_refused_here() -> None:
    policy = RestartPolicy(attempts=-1, interval_ns=10 * SECOND_NS, delay_ns=-SECOND_NS, mode="fail")

    assert policy.errors() == []
    assert policy.refusals() == ["Attempts can not be negative (got -1)", "Delay can not be negative (got -1s)"]


# --- the table of decisions: every step, in the old client and in the new ---

POLICY = RestartPolicy(attempts=1, interval_ns=60 * SECOND_NS, delay_ns=SECOND_NS, mode="fail")
DELAY = RestartPolicy(attempts=1, interval_ns=60 * SECOND_NS, delay_ns=SECOND_NS, mode="delay")
NONE = RestartPolicy(attempts=0, interval_ns=60 * SECOND_NS, delay_ns=SECOND_NS, mode="fail")
END_NS = 60 * SECOND_NS
FAILED, WELL = TaskEnd(exit_code=1), TaskEnd(exit_code=0)
ASKED, UNHEALTHY = TaskEnd(restart="asked"), TaskEnd(restart="failed")


@dataclass(frozen=True)
class Told:
    """What a row of the table says of one client."""

    decision: str
    reason: str
    count: int
    window_start_ns: int = 0


@dataclass(frozen=True)
class Row:
    """A row of the table of decisions; the old client decides as the new one unless told, and never asks some rows."""

    name: str
    policy: RestartPolicy
    result: TaskEnd
    new: Told
    old: Told | None = None
    count: int = 0
    after_success: bool = True
    now_ns: int = 0
    only_new: bool = False


WITHIN = Told("Restarting", WITHIN_POLICY, 1)
ROWS = [
    Row("1 killed", POLICY, TaskEnd(killed=True), Told("Killed", "", 1), only_new=True, count=1, now_ns=END_NS + 1),
    Row("1 killed before all else", NONE, TaskEnd(killed=True, restart="asked"), Told("Killed", "", 0), only_new=True),
    Row("2 asked for, in the next window", POLICY, ASKED, Told("Restarting", "", 1), count=1, now_ns=END_NS + 1),
    Row("2 asked for, without attempts", NONE, ASKED, Told("Restarting", "", 0)),
    Row("2 asked for since it failed counts", POLICY, UNHEALTHY, WITHIN, only_new=True),
    Row("3 no attempts, failed", NONE, FAILED, Told("Not Restarting", NO_RESTARTS, 0)),
    Row("3 no attempts, well, may end", NONE, WELL, Told("Terminated", NO_RESTARTS, 0), after_success=False),
    Row(
        "3 no attempts, well, should go on",
        NONE,
        WELL,
        Told("Not Restarting", NO_RESTARTS, 0),
        old=Told("Terminated", NO_RESTARTS, 0),
    ),
    Row("4 in its window", POLICY, FAILED, WITHIN, now_ns=SECOND_NS),
    Row("4 at the very end of its window", POLICY, FAILED, WITHIN, now_ns=END_NS),
    Row(
        "4 in the next window",
        POLICY,
        FAILED,
        Told("Restarting", WITHIN_POLICY, 1, END_NS + 1),
        old=Told("Restarting", WITHIN_POLICY, 0, END_NS + 1),
        count=7,
        now_ns=END_NS + 1,
    ),
    Row("5 start failed for good", POLICY, TaskEnd(start_failed=True), Told("Not Restarting", UNRECOVERABLE, 1)),
    Row("5 start failed for now", POLICY, TaskEnd(start_failed=True, recoverable=True), WITHIN),
    Row("6 well, may end", POLICY, WELL, Told("Terminated", SUCCEEDED, 1), after_success=False),
    Row("6 well, used up", POLICY, WELL, Told("Terminated", SUCCEEDED, 2), count=1, after_success=False),
    Row("6 well, should go on", POLICY, WELL, WITHIN),
    Row("6 a signal is no success", POLICY, TaskEnd(exit_code=0, signal=9), WITHIN, after_success=False),
    Row("6 an error is no success", POLICY, TaskEnd(exit_code=0, error="lost"), WITHIN, after_success=False),
    Row("7 used up, mode fail", POLICY, FAILED, Told("Not Restarting", POLICY.exceeded, 2), count=1),
    Row("7 used up, mode delay", DELAY, FAILED, Told("Restarting", DELAYED, 2), count=1, now_ns=SECOND_NS),
    Row(
        "7 used up, start failed for now",
        DELAY,
        TaskEnd(start_failed=True, recoverable=True),
        Told("Restarting", DELAYED, 2),
        count=1,
    ),
    Row("8 within the policy", DELAY, FAILED, WITHIN),
    # There is always an input here; an exit without a result is a failure.
    Row("9 no exit result", POLICY, TaskEnd(), WITHIN, only_new=True, after_success=False),
]


@pytest.mark.parametrize(
    ("row", "dialect"),
    [
        pytest.param(row, dialect, id=f"{row.name} in {dialect}")
        for row in ROWS
        for dialect in (NEW if row.only_new else DIALECTS)
    ],
)
def test_every_row_of_the_table_of_decisions(row: Row, dialect: str) -> None:
    expected = row.new if dialect in NEW else row.old or row.new

    decided = decide(
        row.policy,
        row.result,
        dialect=dialect,
        tracker=Tracker(0, row.count),
        after_success=row.after_success,
        now_ns=row.now_ns,
    )

    tracker = decided.tracker
    assert Told(decided.decision, decided.reason, tracker.count, tracker.window_start_ns) == expected
    if decided.reason == WITHIN_POLICY:
        assert SECOND_NS <= decided.delay_ns < 1.25 * SECOND_NS
    else:
        assert decided.delay_ns == (END_NS - row.now_ns if decided.reason == DELAYED else 0)


def test_the_rows_have_every_verdict_that_there_is() -> None:
    told = {each for row in ROWS for each in (row.new, row.old) if each is not None}
    verdicts = {(each.decision, EXCEEDED if each.reason == POLICY.exceeded else each.reason) for each in told}

    assert verdicts == {(decision, reason) for decision, reasons in VERDICTS.items() for reason in reasons}


AFTER_SUCCESS: list[tuple[str, Hook, bool, bool, bool]] = [
    # Type of job, hook, whether it is a sidecar; started again after a success: by the new client, by the old one.
    ("service", "", False, True, True),
    ("system", "", False, True, True),
    ("batch", "", False, False, False),
    ("sysbatch", "", False, False, False),
    ("service", "prestart", False, False, True),
    ("service", "prestart", True, True, True),
    ("batch", "prestart", True, True, False),
    ("service", "poststart", False, False, True),
    ("batch", "poststart", True, True, False),
    ("service", "poststop", False, False, True),
    ("service", "poststop", True, False, True),
]


@pytest.mark.parametrize(("job_type", "hook", "sidecar", "new", "old"), AFTER_SUCCESS)
def test_whether_a_success_may_be_the_end(job_type: str, hook: Hook, sidecar: bool, new: bool, old: bool) -> None:
    """The old client knows no hooks, and passes them over."""
    for dialect in DIALECTS:
        expected = new if dialect in NEW else old
        assert restarts_after_success(job_type, hook, sidecar=sidecar, dialect=dialect) is expected


# --- what holds for every policy ---

SPANS_NS = st.integers(0, 100 * SECOND_NS)


POLICIES = kit.policies(min_attempts=1)
FAILING, DELAYING = (kit.policies(mode=mode, min_attempts=1) for mode in (MODE_FAIL, MODE_DELAY))
results = st.builds(
    TaskEnd,
    exit_code=st.none() | st.integers(0, 2),
    signal=st.sampled_from([0, 9]),
    error=st.sampled_from(["", "lost"]),
    killed=st.booleans(),
    start_failed=st.booleans(),
    recoverable=st.booleans(),
    restart=st.sampled_from(["", "asked", "failed"]),
)
trackers = st.builds(Tracker, st.integers(0, 100 * SECOND_NS), st.integers(0, 8))
dialects = st.sampled_from(list(DIALECTS))
seeds = st.integers(0, 2**32)


def timeline(policy: RestartPolicy, runs_ns: list[int], dialect: str, seed: int) -> list[SimulatedFailure]:
    return simulate(policy, runs_ns, rng=random.Random(seed), dialect=dialect)


def restarts_by_window(steps: list[SimulatedFailure]) -> list[int]:
    """Return how many restarts within the policy each window had, the first of them first."""
    found: dict[int, int] = {0: 0}
    for step in steps:
        found.setdefault(step.verdict.tracker.window_start_ns, 0)
        found[step.verdict.tracker.window_start_ns] += step.verdict.decision == "Restarting"
    return list(found.values())


@given(policy=POLICIES, dialect=dialects, seed=seeds)
def test_a_delay_is_at_least_the_policys_and_less_than_a_quarter_more(
    policy: RestartPolicy, dialect: str, seed: int
) -> None:
    delay_ns = policy.delay_ns or 1

    decided = decide(policy, FAILED, dialect=dialect, seed=seed)

    assert decided.reason == WITHIN_POLICY
    assert delay_ns <= decided.delay_ns
    assert 4 * decided.delay_ns < 5 * delay_ns


def test_both_ends_of_the_delay_are_reached() -> None:
    policy = RestartPolicy(attempts=1, interval_ns=60 * SECOND_NS, delay_ns=8, mode="fail")

    found = {decide(policy, FAILED, dialect=dialect, seed=seed).delay_ns for dialect in DIALECTS for seed in range(50)}

    assert found == {8, 9}


@given(policy=FAILING, runs_ns=st.lists(SPANS_NS, max_size=60), seed=seeds)
def test_no_window_of_the_new_client_has_more_restarts_than_attempts(
    policy: RestartPolicy, runs_ns: list[int], seed: int
) -> None:
    assert max(restarts_by_window(timeline(policy, runs_ns, "1.1.2", seed))) <= policy.attempts


@given(policy=FAILING, runs_ns=st.lists(SPANS_NS, max_size=60), seed=seeds)
def test_a_later_window_of_the_old_client_has_one_restart_more_at_most(
    policy: RestartPolicy, runs_ns: list[int], seed: int
) -> None:
    first, *later = restarts_by_window(timeline(policy, runs_ns, "0.5.6", seed))

    assert first <= policy.attempts
    assert max(later, default=0) <= policy.attempts + 1


@given(policy=FAILING, dialect=dialects)
def test_a_later_window_gives_up_after_exactly_so_many_restarts(policy: RestartPolicy, dialect: str) -> None:
    """The first failure comes after the end of the first window, the others at once."""
    late_ns, tracker, restarts = policy.interval_ns + 1, Tracker(0), 0
    while (
        decided := decide(policy, FAILED, dialect=dialect, tracker=tracker, now_ns=late_ns)
    ).decision == "Restarting":
        tracker, restarts = decided.tracker, restarts + 1

    assert decided.reason == policy.exceeded
    assert restarts == policy.attempts + (0 if dialect in NEW else 1)


@given(
    policy=DELAYING,
    runs_ns=st.lists(SPANS_NS, min_size=1, max_size=30),
    dialect=dialects,
    seed=seeds,
)
def test_mode_delay_never_gives_up_and_waits_for_the_end_of_the_window(
    policy: RestartPolicy, runs_ns: list[int], dialect: str, seed: int
) -> None:
    steps = timeline(policy, runs_ns, dialect, seed)

    assert len(steps) == len(runs_ns)
    for step in steps:
        decided = step.verdict
        assert decided.decision == "Restarting"
        if decided.tracker.count > policy.attempts:
            assert step.at_ns + decided.delay_ns == decided.tracker.window_start_ns + policy.interval_ns


@given(policy=POLICIES, tracker=trackers, dialect=dialects)
def test_a_window_is_over_strictly_after_its_interval(policy: RestartPolicy, tracker: Tracker, dialect: str) -> None:
    end_ns = tracker.window_start_ns + policy.interval_ns

    at_the_end = decide(policy, FAILED, dialect=dialect, tracker=tracker, now_ns=end_ns)
    after_it = decide(policy, FAILED, dialect=dialect, tracker=tracker, now_ns=end_ns + 1)

    assert at_the_end.tracker == Tracker(tracker.window_start_ns, tracker.count + 1)
    assert after_it.tracker == Tracker(end_ns + 1, 1 if dialect in NEW else 0)


@given(
    policy=POLICIES,
    result=results,
    tracker=trackers,
    after_success=st.booleans(),
    now_ns=SPANS_NS,
    dialect=dialects,
    seed=seeds,
)
def test_the_same_question_has_the_same_answer(
    policy: RestartPolicy,
    result: TaskEnd,
    tracker: Tracker,
    after_success: bool,
    now_ns: int,
    dialect: str,
    seed: int,
) -> None:
    def answer() -> Verdict:
        return decide(
            policy,
            result,
            dialect=dialect,
            tracker=tracker,
            after_success=after_success,
            now_ns=now_ns,
            seed=seed,
        )

    before = Tracker(tracker.window_start_ns, tracker.count)

    assert answer() == answer()
    assert tracker == before


@given(
    policy=POLICIES,
    tracker=trackers,
    now_ns=st.integers(0, 1000 * SECOND_NS),
    dialect=dialects,
    seed=seeds,
)
def test_a_restart_that_is_asked_for_never_counts(
    policy: RestartPolicy, tracker: Tracker, now_ns: int, dialect: str, seed: int
) -> None:
    asked = decide(policy, ASKED, dialect=dialect, tracker=tracker, now_ns=now_ns, seed=seed)

    assert asked == Verdict("Restarting", tracker, 0, "")


def test_a_timeline_ends_with_the_first_decision_not_to_restart() -> None:
    steps = timeline(POLICY, [SECOND_NS] * 10, "1.1.2", 0)

    assert [step.verdict.decision for step in steps] == ["Restarting", "Not Restarting"]
    assert steps[1].at_ns == 2 * SECOND_NS + steps[0].verdict.delay_ns


def test_the_window_of_a_timeline_begins_with_the_first_run() -> None:
    late, soon = (timeline(POLICY, [POLICY.interval_ns + more], "1.1.2", 0)[0] for more in (1, 0))

    assert late.verdict.tracker == Tracker(POLICY.interval_ns + 1, 1)
    assert soon.verdict.tracker == Tracker(0, 1)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_task_of_a_timeline_is_started_again_after_a_success_unless_it_may_end(dialect: str) -> None:
    def decisions(**options: Any) -> list[str]:
        steps = simulate(POLICY, [0], rng=random.Random(1), dialect=dialect, result=TaskEnd(exit_code=0), **options)
        return [step.verdict.decision for step in steps]

    assert decisions() == decisions(after_success=True) == ["Restarting"]
    assert decisions(after_success=False) == ["Terminated"]


# --- advice ---


def names(policy: RestartPolicy, run_ns: int, dialect: str) -> list[str]:
    return [advice.name for advice in advice_on(policy, run_ns=run_ns, dialect=dialect)]


def is_used_up(steps: list[SimulatedFailure], policy: RestartPolicy) -> bool:
    return any(step.verdict.tracker.count > policy.attempts for step in steps)


@given(policy=POLICIES, run_ns=st.integers(1, 60 * SECOND_NS), dialect=dialects, seed=seeds)
def test_advice_on_attempts_is_what_the_simulation_shows(
    policy: RestartPolicy, run_ns: int, dialect: str, seed: int
) -> None:
    """Two windows show everything: after the first, each begins with a failure."""
    failures = 2 * (policy.attempts + 2)
    shown = is_used_up(timeline(policy, [run_ns] * failures, dialect, seed), policy)

    expected = {UsedUp.CERTAINLY: {True}, UsedUp.NEVER: {False}, UsedUp.BY_CHANCE: {True, False}}

    assert shown in expected[used_up(policy, run_ns, dialect)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_left_to_chance_happens_with_one_seed_and_not_with_another(dialect: str) -> None:
    policy = RestartPolicy(attempts=2, interval_ns=30 * SECOND_NS, delay_ns=12 * SECOND_NS, mode="fail")
    run_ns = SECOND_NS // 2
    assert used_up(policy, run_ns, dialect) is UsedUp.BY_CHANCE

    found = {is_used_up(timeline(policy, [run_ns] * 4, dialect, seed), policy) for seed in range(50)}

    assert found == {True, False}
    assert names(policy, run_ns, dialect)[0] == "by-chance"


@given(
    policy=FAILING,
    run_ns=st.integers(1, 60 * SECOND_NS),
    dialect=dialects,
    seed=seeds,
)
def test_no_window_counts_more_than_is_said(policy: RestartPolicy, run_ns: int, dialect: str, seed: int) -> None:
    most = most_counted(policy, run_ns, policy.delay_ns or 1, dialect)

    steps = timeline(policy, [run_ns] * 40, dialect, seed)

    assert max(step.verdict.tracker.count for step in steps) <= most


@pytest.mark.parametrize(
    ("interval_ns", "expected"),
    [
        (7_999_999_999, UsedUp.NEVER),
        (8_000_000_000, UsedUp.BY_CHANCE),
        (8_499_999_997, UsedUp.BY_CHANCE),
        (8_499_999_998, UsedUp.CERTAINLY),
    ],
)
def test_the_third_failure_must_fit_with_the_shortest_delays_or_with_the_longest(
    interval_ns: int, expected: UsedUp
) -> None:
    """A run of three seconds, and a delay from 1 s to 1.249999999 s, twice."""
    policy = RestartPolicy(attempts=2, interval_ns=interval_ns, delay_ns=SECOND_NS, mode="fail")

    assert used_up(policy, 3 * SECOND_NS, "1.1.2") is expected


def test_later_windows_of_the_old_client_leave_out_the_failure_that_opens_them() -> None:
    policy = RestartPolicy(attempts=2, interval_ns=10 * SECOND_NS, delay_ns=SECOND_NS, mode="fail")

    assert used_up(policy, 3 * SECOND_NS, "1.1.2") is UsedUp.CERTAINLY
    assert used_up(policy, 3 * SECOND_NS, "0.5.6") is UsedUp.NEVER
    assert len(timeline(policy, [3 * SECOND_NS] * 50, "0.5.6", 0)) == 50


def test_a_policy_of_a_short_interval_is_for_ever() -> None:
    policy = RestartPolicy(attempts=3, interval_ns=10 * SECOND_NS, delay_ns=SECOND_NS, mode="fail")

    (advice,) = advice_on(policy, run_ns=3 * SECOND_NS, dialect="1.1.2")

    assert advice.name == "for-ever"
    assert advice.text == (
        "a task that runs 3s before it fails is started again for ever: no window of 10s counts more than 3, "
        "so that attempts 3 are never used up"
    )
    assert names(policy, SECOND_NS, "1.1.2") == []


@pytest.mark.parametrize("job_type", ["service", "system", "batch"])
def test_the_newer_defaults_do_not_surprise_a_task_that_fails_soon(job_type: str) -> None:
    policy = default_policy(job_type, "1.1.2")

    assert policy is not None
    assert names(policy, SECOND_NS, "1.1.2") == []


def test_a_default_is_for_ever_too_when_a_task_runs_long_enough() -> None:
    policy = default_policy("service", "1.1.2")

    assert policy is not None
    assert names(policy, 15 * 60 * SECOND_NS, "1.1.2") == ["for-ever"]


@pytest.mark.parametrize("dialect", OLD)
def test_the_older_default_never_fails_and_allows_one_more(dialect: str) -> None:
    policy = default_policy("service", dialect)

    assert policy is not None
    advice = advice_on(policy, run_ns=SECOND_NS, dialect=dialect)
    assert [each.name for each in advice] == ["never-fails", "one-more"]
    assert f"dialect {dialect}" in advice[1].text
    assert "allow 3 restarts, not 2" in advice[1].text


def test_mode_delay_that_is_never_used_up_never_waits() -> None:
    policy = RestartPolicy(attempts=3, interval_ns=10 * SECOND_NS, delay_ns=SECOND_NS, mode="delay")

    assert names(policy, 3 * SECOND_NS, "1.1.2") == ["never-waits", "never-fails"]
    assert "never gives a task up" in advice_on(policy, run_ns=3 * SECOND_NS, dialect="1.1.2")[1].text


@pytest.mark.parametrize(("delay_ns", "longest_ns"), [(5, 6), (9, 11), (13, 16)])
def test_attempts_are_certainly_used_up_where_a_run_and_the_longest_delay_fit(delay_ns: int, longest_ns: int) -> None:
    policy = RestartPolicy(attempts=1, interval_ns=5 * SECOND_NS, delay_ns=delay_ns, mode="fail")

    assert used_up(policy, policy.interval_ns - longest_ns, "1.1.2") is UsedUp.CERTAINLY
    assert used_up(policy, policy.interval_ns - longest_ns + 1, "1.1.2") is UsedUp.BY_CHANCE
    assert used_up(policy, policy.interval_ns - delay_ns + 1, "1.1.2") is UsedUp.NEVER


@pytest.mark.parametrize(
    ("mode", "end"), [("fail", "ever is given up"), ("delay", "ever has to wait for the end of an interval")]
)
def test_what_is_left_to_chance_is_told_with_its_end(mode: str, end: str) -> None:
    policy = RestartPolicy(attempts=1, interval_ns=5 * SECOND_NS, delay_ns=5, mode=mode)

    advice = advice_on(policy, run_ns=policy.interval_ns - 5, dialect="1.1.2")[0]

    assert advice.name == "by-chance"
    assert f"{end} depends on the random part of its delays: only some windows of 5s count more than 1" in advice.text


@pytest.mark.parametrize(("dialect", "later"), [("0.5.6", 0), ("1.1.2", 1)])
def test_a_run_that_is_longer_than_the_interval_is_counted_by_no_first_window(dialect: str, later: int) -> None:
    for more in (1, POLICY.interval_ns, 10 * POLICY.interval_ns):
        assert most_counted(POLICY, POLICY.interval_ns + more, 0, dialect) == later


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_attempts_and_mode_delay_contradict_each_other(dialect: str) -> None:
    policy = RestartPolicy(attempts=0, interval_ns=10 * SECOND_NS, delay_ns=SECOND_NS, mode="delay")

    assert names(policy, SECOND_NS, dialect) == ["no-attempts"]
    assert "never started again" in advice_on(policy, run_ns=SECOND_NS, dialect=dialect)[0].text
    assert names(NONE, SECOND_NS, dialect) == []
    assert decide(policy, FAILED, dialect=dialect).decision == "Not Restarting"


@pytest.mark.parametrize(
    "policy",
    [
        RestartPolicy(attempts=3, interval_ns=SECOND_NS, delay_ns=SECOND_NS, mode="delay"),
        RestartPolicy(attempts=3, interval_ns=10 * SECOND_NS, delay_ns=-SECOND_NS, mode="fail"),
        RestartPolicy(attempts=-3, interval_ns=10 * SECOND_NS, delay_ns=0, mode="fail"),
        RestartPolicy(attempts=3, interval_ns=10 * SECOND_NS, delay_ns=0, mode="x"),
    ],
    ids=str,
)
def test_a_policy_that_is_refused_has_errors_and_no_advice(policy: RestartPolicy) -> None:
    assert policy.refusals()
    assert names(policy, SECOND_NS, "0.5.6") == []


def test_advice_takes_no_longer_for_more_attempts() -> None:
    policy = RestartPolicy(attempts=10**18, interval_ns=10 * SECOND_NS, delay_ns=0, mode="fail")

    assert names(policy, SECOND_NS, "1.1.2") == ["for-ever"]


def test_what_holds_for_every_policy_is_what_is_decided() -> None:
    assert REQUESTED.name == "requested"
    assert "does not count" in REQUESTED.text
    for dialect in DIALECTS:
        used = Tracker(0, POLICY.attempts)
        assert decide(POLICY, ASKED, dialect=dialect, tracker=used) == Verdict("Restarting", used)
