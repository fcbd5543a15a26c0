"""The rows and their versions, the watches on them, and what must outlive the daemon."""
