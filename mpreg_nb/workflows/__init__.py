"""Graphs of calls that refer to each other's results, and their execution."""
