"""Nodes whose workers are those of another engine: Dask."""
