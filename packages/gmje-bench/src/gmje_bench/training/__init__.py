"""Training: the module, its optimiser and schedule, the loop with its checkpoints, and the stage that closes it."""
