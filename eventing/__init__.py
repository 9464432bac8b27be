"""Changes of databases, as events: captured, stored, delivered, logged."""

__version__ = "0.1.0"
