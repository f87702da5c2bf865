"""Turn responses into vectors."""
