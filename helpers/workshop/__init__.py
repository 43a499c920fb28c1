"""The teacher's tools: checks of exercises, a check of the machine, the kit for a class."""
