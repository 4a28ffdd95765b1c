"""greeting: answer /hello with a text, and add a header field to every answer that is a file.

    LOAD greeting
    CREATE SERVICE site
      SET role     = web_server
      SET plugins  = greeting
      SET greeting = Hello.

This short plugin shows a tunable, two hooks and a counter. After a change, type `RELOAD greeting`; the next request runs it.
"""

from pbal.api import TEXT, Counter, Exchange, Plugin, Tunable, Verdict, hook


class Greeting(Plugin):
    tunables = (Tunable("greeting", TEXT, default="Hello.", summary="What /hello says."),)
    counters = (Counter("greeting_said", "Requests for /hello."),)

    @hook.start_http_request
    def hello(self, exchange: Exchange) -> Verdict:
        if exchange.path != b"/hello":
            return Verdict.PASS
        self.counts["greeting_said"] += 1
        exchange.respond(200, [(b"Content-Type", b"text/plain; charset=utf-8")], self.service["greeting"].encode() + b"\n")
        return Verdict.TAKEN

    @hook.modify_response_headers  # runs for files and backends, and not for answers of plugins
    def sign(self, exchange: Exchange, response) -> None:
        response.headers.append((b"X-Greeting", b"hello"))
