"""What a decision asks its caller to do."""

from taskfold.model.effects import *
