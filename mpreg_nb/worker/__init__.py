"""A process that runs user code for a node."""
