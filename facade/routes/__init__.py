"""The handlers of each path, and the documents that are generated from the table of routes."""
