"""Links between processes: proven, framed, bounded, and nothing about calls."""
