"""The shell around the link machine: performs what it orders, listens to the gateway, tells the world."""
