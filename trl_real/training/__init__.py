"""RealDPOTrainer and its configuration."""
