"""What a decision asks its caller to do."""

from taskfold.model.effects import *
from taskfold.model.effects import __all__
