"""The session for facades on other machines: deltas, calls and signs of life over NATS."""
