"""The facade's replica of the daemon's state, and the conversation that keeps it current."""
