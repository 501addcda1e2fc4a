"""Trains models: tasks, losses, the step, the loop, whole runs."""
