"""Jobs on real data, told in a terminal: `mpreg-nb demo`."""
