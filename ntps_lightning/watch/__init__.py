"""What any loop that watches a run shares: what is measured, what goes wrong, what is kept, and what it is called."""
