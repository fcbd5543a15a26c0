"""Alerts as both processes send them: where to, signed how, and one attempt to deliver."""
