"""The local transport: a Unix socket or a Windows named pipe that only this user can open, and private directories."""
