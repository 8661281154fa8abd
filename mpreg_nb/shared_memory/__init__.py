"""Large values in memory that processes of one machine share."""
