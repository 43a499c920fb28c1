"""Our numbers beside those of the tools that define them, which `make test-peers` installs."""
