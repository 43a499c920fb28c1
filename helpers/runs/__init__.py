"""A run as a folder, and many of them: parameters, processes, sweeps, reports, the command line."""
