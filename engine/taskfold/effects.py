"""Effects: the actions that a decision asks of its caller."""

from taskfold.model.effects import *
from taskfold.model.effects import __all__
