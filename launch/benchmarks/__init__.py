"""What launch.benchmark measures."""
