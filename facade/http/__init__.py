"""HTTP itself: connections, who may ask, what a request asks, answers as bytes. Knows nothing of the link."""
