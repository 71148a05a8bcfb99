"""Versions, their lineage, and their projection into MLflow; nothing else imports mlflow."""
