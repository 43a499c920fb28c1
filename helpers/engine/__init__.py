"""What makes training and scoring fast, and what lets a training survive an interruption."""
