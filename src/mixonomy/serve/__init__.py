"""The server and its page: predictions over HTTP, for files of strangers (the extra `serve`)."""

from mixonomy.serve.settings import Settings, read_keys

__all__ = ["Settings", "read_keys"]
