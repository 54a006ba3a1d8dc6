class BadFile(Exception):
    """Why one file cannot be used."""
