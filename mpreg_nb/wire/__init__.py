"""What travels between processes, and how it becomes bytes."""
