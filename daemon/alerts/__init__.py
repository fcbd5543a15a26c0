"""Alerts about the link: rules over the rows there are, a durable outbox, delivery to each sink by itself."""
