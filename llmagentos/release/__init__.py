"""Moving traffic to a version, and back."""
