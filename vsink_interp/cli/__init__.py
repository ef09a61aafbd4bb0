"""The `vsink` command."""
