"""For those who maintain the project: nothing in `helpers` imports it, and it is not installed."""
