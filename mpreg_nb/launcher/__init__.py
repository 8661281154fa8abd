"""Starts nodes on this machine, and keeps record of who started what."""
