"""The topics of the event stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.edge_cases import EDGES, params
from support.recordings import Edge, vector
from taskfold.http.nomad.topics import TopicError, Topics, parse_topics
from taskfold.http.query import parse_query

ID = "203266e5-e0d6-9486-56e5-397ed2b184af"


def raw_query_of(edge: Edge) -> bytes:
    return edge.request.partition("?")[2].encode()


STREAM = vector("event_stream")


def topics_of(case: dict) -> Topics:
    return parse_topics([f"{topic}:{key}" for topic, keys in case["topics"].items() for key in keys])


def matched(case: dict) -> list[int]:
    """Return which events of a case are wanted; the namespace is no matter of topics."""
    topics = topics_of(case)
    return [
        place
        for place, event in enumerate(case["events"])
        if topics.matches(event["Topic"], event["Key"], event["FilterKeys"])
        and event["Namespace"] in (case.get("namespaces") or [event["Namespace"]])
    ]


@pytest.mark.parametrize("case", STREAM["filter_cases"], ids=lambda case: case["name"])
def test_the_conformance_cases_of_filters(case):
    assert matched(case) == case["expected_indexes"]


@pytest.mark.parametrize("case", STREAM["filter_quirks"], ids=lambda case: case["name"])
def test_the_defects_of_filters_are_not_copied(case):
    assert matched(case) == case["sane_indexes"]
    assert topics_of(case).wants_allocations == bool(case["sane_indexes"])


@pytest.mark.parametrize("case", STREAM["query_parse"], ids=lambda case: case["query"])
def test_the_conformance_cases_of_the_topic_parameter(case):
    query = parse_query(case["query"].removeprefix("?").encode())

    assert parse_topics(query.all("topic")).keys == {topic: set(keys) for topic, keys in case["topics"].items()}


@pytest.mark.parametrize("value", ["a:b:c", "::", "Allocation:x:", ":::é"])
def test_a_topic_has_one_colon_at_most(value):
    with pytest.raises(TopicError) as caught:
        parse_topics(["Allocation", value])

    assert str(caught.value) == (
        f"Invalid topic query: error parsing topics: Invalid key value pair for topic, topic: {value}"
    )


@params(key for key in EDGES if key[0] == "1.1.2" and key[1] in {"stream_bad_topic", "stream_colon"})
def test_a_recorded_topic_that_nobody_knows_is_taken_and_matches_nothing(edge):
    topics = parse_topics(parse_query(raw_query_of(edge)).all("topic"))

    assert edge.status == 200
    assert not topics.wants_allocations
    assert not topics.matches("Allocation", ID, ["job", ""])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], True),
        (["*"], True),
        (["*:job"], True),
        (["Allocation"], True),
        (["Job", "Allocation:job"], True),
        (["Job"], False),
        (["allocation"], False),
        (["Allocation:"], False),
        ([""], False),
    ],
)
def test_whether_allocations_can_be_wanted_is_known_beforehand(values, expected):
    assert parse_topics(values).wants_allocations is expected


topic_values = st.lists(st.tuples(st.sampled_from(["*", "Allocation", "Job"]), st.sampled_from(["*", "", "a", "b"])))


@given(topic_values, st.sampled_from(["Allocation", "Job"]), st.sampled_from("abc"), st.sampled_from(["", "a", "b"]))
def test_an_event_is_wanted_if_any_pair_wants_it(pairs, topic, key, filter_key):
    topics = parse_topics([f"{wanted}:{name}" for wanted, name in pairs])

    wanted = not pairs or any(
        name in {"*", key, filter_key} - {""} for wanted_topic, name in pairs if wanted_topic in {"*", topic}
    )

    assert topics.matches(topic, key, [filter_key]) == wanted
    assert topics.wants_allocations or topic != "Allocation" or not wanted
