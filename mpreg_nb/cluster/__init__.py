"""What a notebook holds: nodes that it started, their processes, the ledger."""
