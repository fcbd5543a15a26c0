"""What daemon and facade both speak: rows, reasons, the socket and its lines. Imports neither of them."""
