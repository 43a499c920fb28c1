"""Our numbers beside those of the tools that define them; these are installed by `make test-peers` alone."""
