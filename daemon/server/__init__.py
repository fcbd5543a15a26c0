"""The local socket's other side: conversations, and what may be asked in them."""
