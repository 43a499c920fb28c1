"""Where models and data come from and where they go to: this machine, the Hugging Face Hub, a package index."""
