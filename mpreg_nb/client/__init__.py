"""The caller's side: links to nodes, calls, registrations and runs."""
