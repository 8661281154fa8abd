"""What functions print and display, on its way to the cell of their call."""
