"""Step 1: interactions and feedback become a dataset snapshot."""
