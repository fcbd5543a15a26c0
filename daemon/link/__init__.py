"""The link as pure values and functions: what it can be in, what happens, what is decided. No clock, no socket."""
