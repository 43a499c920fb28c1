"""A run as a folder, and many of them: parameters, processes, sweeps, comparison, reports, the command line."""
