"""Messages between processes, and the codec that turns them into bytes."""
