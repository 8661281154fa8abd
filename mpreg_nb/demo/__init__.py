"""The main job on real data, as a program: `mpreg-nb demo`."""
