"""What each path gives, and the documents that are generated from the table of routes."""
