"""Server-Sent Events: their readers, and how far each has come."""
