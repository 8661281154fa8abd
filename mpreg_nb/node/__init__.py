"""One process that takes part in the cluster and runs functions."""
