"""The directory: every order tells the same allocations."""

from hypothesis import given
from hypothesis import strategies as st

from taskfold.events import Started
from taskfold.fold.allocation import Allocation
from taskfold.live.directory import Directory, ListEntry, heading_of
from taskfold.log.index_map import Positions
from taskfold.model.record import Record

IDS = st.sampled_from(["a0", "a1", "ab", "b0", "b1", "c"])
LISTED = st.builds(
    ListEntry,
    namespace=st.sampled_from(["default", "other"]),
    job=st.sampled_from(["", "job", "job2"]),
    node=st.sampled_from(["", "n1", "n2"]),
    status=st.sampled_from(["pending", "running", "complete"]),
    modify_index=st.integers(0, 9),
)


@given(
    st.lists(st.tuples(IDS, LISTED), max_size=30),
    st.sampled_from(["", "a", "ab", "x"]),
    st.fixed_dictionaries(
        {},
        optional={
            "job": st.sampled_from(["", "job", "job2", "none"]),
            "node": st.sampled_from(["n1", "n3"]),
            "status": st.sampled_from(["running", "lost"]),
            "namespace": st.sampled_from(["default", "none"]),
        },
    ),
    st.integers(0, 9),
)
def test_what_is_asked_for_is_what_a_scan_would_find(puts, prefix, filters, index):
    directory = Directory()
    model: dict[str, ListEntry] = {}
    for alloc, listed in puts:
        directory.put(alloc, listed)
        model[alloc] = listed
    directory._check()

    assert directory.ids(prefix=prefix, **filters) == sorted(
        alloc
        for alloc, listed in model.items()
        if alloc.startswith(prefix) and all(getattr(listed, name) == value for name, value in filters.items())
    )
    found = list(directory.written_after(index))
    assert set(found) == {alloc for alloc, listed in model.items() if listed.modify_index > index}
    assert [model[alloc].modify_index for alloc in found] == sorted(model[alloc].modify_index for alloc in found)
    statuses = [listed.status for listed in model.values()]
    assert directory.count_by_status() == {status: statuses.count(status) for status in set(statuses)}

    at_once = Directory()
    at_once.put_all(model)
    at_once._check()


def test_a_heading_takes_updates_over_what_was_placed():
    allocation = Allocation("a", placed_body=b'{"ID":"a","JobID":"job","NodeID":"n","ClientStatus":null}')
    allocation.modify_index = 9

    assert heading_of(allocation) == ListEntry(job="job", node="n", status="pending", modify_index=9)

    allocation.updates = {"NodeID": None, "ClientStatus": b'"lost"', "Namespace": b'"other"'}
    assert heading_of(allocation) == ListEntry(
        namespace="other", job="job", status="lost", modify_index=9, explicit_status="lost"
    )


def test_a_heading_of_a_wrong_type_is_listed_as_empty():
    allocation = Allocation("a", placed_body=b'{"ID":"a","JobID":5,"NodeID":"n"}', updates={"Namespace": b"7"})

    assert heading_of(allocation) == ListEntry(node="n")


@given(st.lists(st.integers(1, 60), max_size=200), st.integers(0, 61), st.integers(1, 7), st.data())
def test_no_record_of_an_index_or_after_it_stands_before_its_position(indexes, wanted, records_per_mark, data):
    positions = Positions(records_per_mark)
    records = [
        Record(seq=seq, index=index, alloc="a", version=seq, task="web", event=Started())
        for seq, index in enumerate(indexes, start=1)
    ]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=4)))
    for first, last in zip([0, *cuts], [*cuts, len(records)], strict=True):
        positions.note_all(records[first:last])

    start = positions.before(wanted)

    assert all(index < wanted for index in indexes[:start])
    assert positions.newest == max(indexes, default=0)
    first = next((seq for seq, index in enumerate(indexes) if index >= wanted), len(indexes))
    assert first - start <= records_per_mark
