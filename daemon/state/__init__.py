"""What the daemon knows and remembers: rows and their versions, who watches them, what must outlive it."""
