"""The API's views, a file a resource. Each parses, calls one function of `eventing`, and shows."""
