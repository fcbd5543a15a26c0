"""The HTTP process: serves a replica of the daemon's state. Never talks to the gateway, never imports ib_async."""
