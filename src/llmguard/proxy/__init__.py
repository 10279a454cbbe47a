"""The gateway: a pure ASGI application and the server around it."""
