"""The Python API: clusters, functions, runs, executors and live views."""
