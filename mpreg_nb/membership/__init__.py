"""Who is in the cluster: SWIM with Lifeguard, as machines without I/O or clock."""
