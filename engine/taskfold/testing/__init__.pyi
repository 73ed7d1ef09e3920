from taskfold.testing import strategies as strategies
from taskfold.testing.faults import FaultyLog as FaultyLog
from taskfold.testing.histories import History as History
from taskfold.testing.histories import history_of as history_of
from taskfold.testing.logs import LogContract as LogContract
from taskfold.testing.worlds import Run as Run
from taskfold.testing.worlds import World as World

__all__ = ["FaultyLog", "History", "LogContract", "Run", "World", "history_of", "strategies"]
