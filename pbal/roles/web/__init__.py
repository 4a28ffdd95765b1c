"""web_server: files below a docroot."""
