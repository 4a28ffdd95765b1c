"""Tunables of TLS. Names are Perlbal's where it has them."""

from pbal.schema import types
from pbal.schema.tunables import Applies, Tunable

_PERLBAL = "Perlbal service parameters"

TLS: tuple[Tunable, ...] = (
    Tunable(
        "enable_ssl",
        types.BOOL,
        default="off",
        applies=Applies.NEXT_ENABLE,
        summary="Speak TLS (1.2 and 1.3) on the listener. Needs ssl_cert_file.",
        source=_PERLBAL,
    ),
    Tunable(
        "ssl_cert_file",
        types.PATHS,
        perlbal="certs/server-cert.pem",
        applies=Applies.NEXT_ENABLE,
        summary="Files with certificates in PEM, each followed by its intermediates. A client gets the one for the host it names;"
        " who names none, or another, gets the first.",
        source="differs: several files, chosen by name; no default",
    ),
    Tunable(
        "ssl_key_file",
        types.PATHS,
        perlbal="certs/server-key.pem",
        applies=Applies.NEXT_ENABLE,
        summary="Files with the private keys, in step with ssl_cert_file; unset: they are in the same files.",
        source="differs: several files; no default",
    ),
    Tunable(
        "ssl_cipher_list",
        types.TEXT,
        default="",
        applies=Applies.NEXT_ENABLE,
        summary="Ciphers of TLS 1.2 as an OpenSSL cipher list; insecure ones are left out with a warning. Empty: OpenSSL's own choice.",
        source="differs: insecure ciphers are never used",
    ),
    Tunable(
        "ssl_honor_cipher_order",
        types.BOOL,
        default="on",
        perlbal="off",
        applies=Applies.NEXT_ENABLE,
        summary="The order of ssl_cipher_list counts, not the client's.",
        source="differs: on",
    ),
    Tunable(
        "ssl_verify_mode",
        types.INT,
        default="0",
        unit="bits",
        maximum="7",
        applies=Applies.NEXT_ENABLE,
        summary="Certificates of clients: 0 does not ask, 1 asks and verifies what it gets, 3 refuses clients without one."
        " What they said goes to backends in X-SSL-Client-* and Client-Cert.",
        source="differs: bit 4 (once) has no effect, since nothing is renegotiated",
    ),
    Tunable(
        "ssl_ca_path",
        types.PATH,
        applies=Applies.NEXT_ENABLE,
        summary="Who may certify clients: a directory with certificates in PEM, or one file.",
        source="differs: a file, too; names in the directory need not be hashes",
    ),
    Tunable(
        "ssl_handshake_timeout",
        types.DURATION,
        default="10s",
        unit="seconds",
        summary="Time a handshake may take, 0 is no limit.",
        source="pbal",
    ),
    Tunable(
        "ssl_handshake_rate",
        types.INT,
        default="1000",
        unit="handshakes a second",
        summary="Handshakes begun in a second at most; who comes later waits. 0 is no limit.",
        source="pbal",
    ),
)
"""Of every service: its listener may speak TLS."""

TLS_HTTP: tuple[Tunable, ...] = (
    Tunable(
        "ssl_host_check",
        types.enum("sni", "certificate", "off"),
        default="sni",
        summary="Answer 421 where a client named a host in its handshake and asks for one of another certificate (sni); for every"
        " host that the certificate in use does not cover (certificate); never (off).",
        source="pbal",
    ),
    Tunable(
        "https_redirect",
        types.BOOL,
        default="off",
        summary="Answer every request that did not come over TLS with a redirect to the same address with https.",
        source="pbal",
    ),
    Tunable(
        "hsts",
        types.DURATION,
        default="0",
        unit="seconds",
        summary="Tell browsers over TLS to use https only for so long (Strict-Transport-Security, RFC 6797); 0 says nothing.",
        source="pbal",
    ),
    Tunable(
        "acme_challenges",
        types.PATH,
        summary="Folder whose files answer /.well-known/acme-challenge/ (RFC 8555 section 8.3), before plugins and redirects.",
        source="pbal",
    ),
)
"""Of every service that answers HTTP."""

TLS_NODES: tuple[Tunable, ...] = (
    Tunable(
        "send_backend_proto",
        types.enum("auto", "on", "off"),
        default="auto",
        perlbal="off",
        summary="Tell backends in X-Forwarded-Proto whether a request came by https or http; auto: for requests that came over TLS.",
        source="differs: in the core; XFFExtras has it in Perlbal, off",
    ),
    Tunable(
        "ssl_backend",
        types.BOOL,
        default="off",
        summary="Speak TLS to the nodes of the pool.",
        source="pbal",
    ),
    Tunable(
        "ssl_backend_verify",
        types.BOOL,
        default="on",
        summary="Take only nodes whose certificate is for their name (or ssl_backend_name) and of a trusted issuer.",
        source="pbal",
    ),
    Tunable(
        "ssl_backend_ca",
        types.PATH,
        summary="Whose certificates of nodes are trusted: a file or a directory; unset: the system's roots.",
        source="pbal",
    ),
    Tunable(
        "ssl_backend_name",
        types.TEXT,
        default="",
        summary="The name that nodes are asked for in the handshake and whose certificate they must have; empty: the node's own.",
        source="pbal",
    ),
)
"""Of who speaks to nodes."""
