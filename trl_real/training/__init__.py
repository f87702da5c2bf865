"""`RealDPOTrainer` and its configuration."""
