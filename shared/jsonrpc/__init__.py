"""JSON-RPC 2.0 over a stream, one object a line: codec, server side, asyncio client, blocking client."""
