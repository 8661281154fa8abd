"""What is shown: drawings, tables and plots. Knows no cluster, only data."""
