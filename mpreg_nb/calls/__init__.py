"""The bookkeeping of calls: attempts, outcomes, and what may be tried again."""
