"""Training: tasks, losses, the step, the loop."""
