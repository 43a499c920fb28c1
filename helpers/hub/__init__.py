"""Where models and data come from and go to: this machine, the Hub, a package index."""
