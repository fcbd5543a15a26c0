"""The local socket's server: its connections and their methods."""
