"""Every task event, by name."""

from taskfold.model.events import *
