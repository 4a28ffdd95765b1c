r"""atomstream: clients read a stream of items that never ends; the plugin atominject takes the items.

    LOAD atomstream
    LOAD atominject
    CREATE SERVICE updates
      SET role    = web_server
      SET listen  = 0.0.0.0:8080
      SET plugins = atomstream
    ENABLE updates
    CREATE SERVICE publishers
      SET role    = web_server
      SET listen  = 127.0.0.1:8081
      SET plugins = atominject
    ENABLE publishers

A GET of a path whose last segment is `atom-stream.xml` is answered with `<atomStream>` and then, for ever, with each item that is published
below that path: who reads /blogs/atom-stream.xml gets what is published as /blogs and as /blogs/anna/7, and not what is published as
/blogs2. Once a second comes `<time>EPOCH</time>`. A reader whose connection broke comes back with `?since=EPOCH`, the last time that it was
told: it gets the items of that second and all later ones of the last 60 seconds, so one may come twice, and none is left out.

A reader that is too slow, so that more than `atom_stream_buffer` waits for it, is left out, and told how many items it missed
(`<sorryTooSlow youMissed="N" />`) as soon as it has caught up.

Source: Perlbal's AtomStream. differs: the answer comes in chunks, and its connection can be used again; `since` counts from its second on;
a replay is bounded, and what it leaves out is told; `since` has to be a number; a path is compared decoded; a stream ends with
</atomStream> where the service is disabled.
"""

from .plugin import AtomStream

__all__ = ["AtomStream"]
