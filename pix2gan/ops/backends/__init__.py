"""The backends: each module here implements primitives and imports no op module."""
