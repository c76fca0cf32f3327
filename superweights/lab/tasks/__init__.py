"""What lab models learn: rows of token ids by number, the same for every arm, BOS at position 0 of each."""

from superweights.lab.tasks.backcopy import BackCopy
from superweights.lab.tasks.opening import Task, TaskSpec, open_task
from superweights.lab.tasks.prose import Prose

# What a recipe's task may be, by the word that TOML has for it.
TASKS: dict[str, type[BackCopy] | type[Prose]] = {"backcopy": BackCopy, "prose": Prose}

__all__ = ["TASKS", "BackCopy", "Prose", "Task", "TaskSpec", "open_task"]
