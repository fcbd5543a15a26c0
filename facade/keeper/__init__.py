"""The small parent that keeps the listening socket and replaces the serving process unnoticed."""
