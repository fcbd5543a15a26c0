"""Server-Sent Events: who reads them and how far each has come."""
