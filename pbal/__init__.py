"""pbal: a reverse proxy, web server, selector and long-poll parking lot, steered live."""

__version__ = "0.1.0"
