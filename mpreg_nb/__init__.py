"""Interactive distributed computing for notebooks, without a scheduler."""
