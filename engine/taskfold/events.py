"""Every task event, by name."""

from taskfold.model.events import *
from taskfold.model.events import __all__
