"""The shell around the link machine: performs its actions, posts it events, publishes the link."""
