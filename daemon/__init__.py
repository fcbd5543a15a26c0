"""The process that holds the one session with the gateway. Never imports the facade."""
