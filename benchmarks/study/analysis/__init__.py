"""From the rows of all runs to what is reported."""
