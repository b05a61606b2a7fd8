"""Files that hold tables: text, our own map files (cdb), and OpenSMTPD's (Berkeley DB); octets in, entries out."""


class BadMap(Exception):
    """A file that holds no table; its text names the file, and what is wrong."""
