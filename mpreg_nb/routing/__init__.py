"""Where a call can run: the catalog, loads, breakers and the choice among nodes."""
