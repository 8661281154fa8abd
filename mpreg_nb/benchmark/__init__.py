"""What calls cost here, in units of a bare WebSocket echo of the same run."""
