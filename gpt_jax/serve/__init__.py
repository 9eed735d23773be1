"""A model behind an HTTP interface: OpenAI's API, and a page to talk to it."""
