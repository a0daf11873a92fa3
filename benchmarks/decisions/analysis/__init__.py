"""The decisions, asked of the rows."""
