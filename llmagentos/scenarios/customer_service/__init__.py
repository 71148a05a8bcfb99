"""Smart customer service: a generated shop, its customers, and its drift."""
