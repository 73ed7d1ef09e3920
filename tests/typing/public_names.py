"""The public names, as type checkers see them: each line's comment says what they must reveal."""

import taskfold as tf

engine = tf.Engine(dialect="1.1.2")
reveal_type(engine)  # reveal: taskfold.live.engine.Engine
record = engine.record("a", "web", tf.events.Started(), id="x", time_ns=5, expected_version=1)
reveal_type(record)  # reveal: taskfold.model.record.Record | None
state = engine.task("a", "web")
reveal_type(state)  # reveal: taskfold.fold.task.TaskState
reveal_type(state.state)  # reveal: str
reveal_type(state.started_at_ns)  # reveal: int | None
reveal_type(state.events[0].time_ns)  # reveal: int
reveal_type(state.counts)  # reveal: dict[str, int]
snapshot = engine.snapshot("a")
reveal_type(snapshot)  # reveal: taskfold.nomad.snapshot.Snapshot
reveal_type(snapshot.job_id)  # reveal: str | None
reveal_type(snapshot.modify_index)  # reveal: int | None
reveal_type(snapshot.to_json("0.5.0"))  # reveal: bytes
reveal_type(snapshot.losses("0.5.0"))  # reveal: list[str]
reveal_type(engine.index)  # reveal: int
written = engine.append([tf.Write(alloc="a", task="web", event=tf.events.Started())])
reveal_type(written)  # reveal: list[taskfold.model.record.Record | None]
reveal_type(engine.update("a", {"DesiredStatus": "stop"}))  # reveal: taskfold.model.record.Record | None
reveal_type(engine.wait("a", after=1, timeout=0.5))  # reveal: taskfold.nomad.snapshot.Snapshot | None
reveal_type(engine.wait_index(after=1))  # reveal: int
listing = engine.allocations(job="example", status="running")
reveal_type(listing)  # reveal: taskfold.live.store.Listing
for each in listing:
    reveal_type(each)  # reveal: taskfold.nomad.snapshot.Snapshot
for subscribed in engine.subscribe(after=1):
    reveal_type(subscribed)  # reveal: taskfold.model.record.Record
reveal_type(tf.Engine.open("tasks.jsonl"))  # reveal: taskfold.live.engine.Engine
reveal_type(tf.Engine.open("tasks.db", read_only=True).is_read_only)  # reveal: bool
reveal_type(engine.backup("copy.db"))  # reveal: int
step = engine.report("a", "web", tf.inputs.Exited(exit_code=1), id="x", time_ns=5, expected_version=1)
reveal_type(step)  # reveal: taskfold.effects.Step
reveal_type(step.outcome)  # reveal: Literal['decided', 'late', 'repeated', 'impossible']
reveal_type([task for task, _ in step.events])  # reveal: list[str]
reveal_type(step.timers)  # reveal: tuple[taskfold.effects.Timer, ...]
for effect in step.effects:
    if isinstance(effect, tf.effects.StartTask):
        reveal_type(effect.at_ns)  # reveal: int
reveal_type(engine.due())  # reveal: list[taskfold.effects.Step]
reveal_type(engine.next_due())  # reveal: int | None
reveal_type(engine.restore())  # reveal: list[taskfold.effects.Step]
reveal_type(tf.RestartPolicy(mode="fail").errors())  # reveal: list[str]
replay = tf.replay("stream.ndjson", at=1042)
reveal_type(replay)  # reveal: taskfold.sources.replay.Replay
for one in replay:
    reveal_type(one)  # reveal: taskfold.model.record.Record
fold = replay.fold()
reveal_type(fold)  # reveal: taskfold.fold.allocation.Fold
reveal_type(fold["a"])  # reveal: taskfold.fold.allocation.AllocationState
for found in replay.snapshots():
    reveal_type(found)  # reveal: taskfold.nomad.snapshot.Snapshot
reveal_type(tf.verify("stream.ndjson"))  # reveal: taskfold.sources.verify.Verification
reveal_type(tf.ingest("stream.ndjson", into="log.jsonl"))  # reveal: taskfold.sources.ingest.Ingestion
lifecycle = tf.lifecycle_of("0.5.6")
reveal_type(lifecycle.target("running", tf.events.Restarting()))  # reveal: str | None
reveal_type(lifecycle.allowed("dead"))  # reveal: tuple[str, ...]
reveal_type(lifecycle.may("dead", tf.events.Killed))  # reveal: bool
reveal_type(tf.display_message(tf.events.Started()))  # reveal: str
reveal_type(tf.details(tf.events.Started()))  # reveal: dict[str, str] | None
reveal_type(tf.events.Terminated().exit_code)  # reveal: int | None
reveal_type(tf.events.Restarting().start_delay_ns)  # reveal: int
reveal_type(engine.bind("a", "web", object()))  # reveal: taskfold.fold.binding.Binding
status = tf.testing.AllocationStatus(tasks={"web": tf.testing.TaskStatus(state="running", restarts=1)})
reveal_type(status.tasks["web"].due_ns)  # reveal: int | None
reveal_type(tf.testing.Deviation("scheduler", "1.1.2", [], []).steps)  # reveal: tuple[str, ...]


class Fold:
    def apply(self, record: str) -> str:
        return record


class FoldMachine(tf.testing.LifecycleMachine):
    def make_fold(self) -> tf.testing.FoldAdapter:
        return Fold()


reveal_type(FoldMachine.ignored_keys)  # reveal: frozenset[str]


class MyDriverContract(tf.testing.DriverContract):
    def make_task(self, run: tf.testing.Run) -> dict[str, object]:
        return {"Driver": "mine", "Config": {"code": run.exit_code}}


reveal_type(MyDriverContract().patience_s)  # reveal: float
reveal_type(MyDriverContract().make_driver())  # reveal: taskfold.run.driver.TaskDriver


def ends(process: tf.testing.DriverProcess) -> bool:
    reveal_type(process.handle)  # reveal: collections.abc.Mapping[str, Any]
    return process.is_over
