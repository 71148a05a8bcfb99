"""What is kept of the past, and how it is mixed with the new."""
