"""The commands of `ibkr` that may take a moment. The way of `ibkr status` is in `facade/cli.py`."""
