"""Where both papers meet: measured by neither of them."""
