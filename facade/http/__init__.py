"""HTTP: connections, the guard, queries and bodies, problems, routes as values. Nothing here is about the link."""
