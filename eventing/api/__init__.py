"""The REST API: contract section 7 over HTTP, and nothing that is not also open to the console."""
