"""throttle: clients that ask too often wait, and then are refused.

    LOAD throttle
    CREATE SERVICE site
      SET role                       = reverse_proxy
      SET plugins                    = throttle
      SET path_regex                 = ^/(login|search)
      SET throttle_threshold_seconds = 2s
      SET initial_delay              = 1s
      SET max_delay                  = 20s
      SET max_concurrent             = 20
      SET whitelist_file             = office.txt

A client is an address after trust (trusted_upstream_proxies), or the /64 of one of IPv6. pbal looks in this order:

- whitelisted: its address is in whitelist_file. It is served.
- banned: it was refused too often. 403.
- blacklisted: its address is in blacklist_file. 403, or with blacklist_action = throttle as any other, whatever default_action says.
- concurrent: it has max_concurrent requests that are not answered yet, those that wait among them. 429.
- served: path_regex or method_regex is set and does not match, or default_action is allow.
- throttled: its last request was less than throttle_threshold_seconds ago. The request waits for initial_delay, the next one twice as long,
  up to max_delay. After throttle_threshold_seconds without a request all is forgotten. After ban_threshold such requests in a row it is
  banned for ban_expiration.

A delay that is longer than taken_timeout is not waited for, nor is one where 10,000 requests wait already: the answer is 429, with
Retry-After. Polls, streams and upgrades are requests like others when they come; a poll that is parked is none any more. At most 50,000
clients are known; the one that was seen longest ago is forgotten. With log_only, all is counted and logged, and everybody is served.

A list has an address or a network on each line; what follows a # is a comment. THROTTLE RELOAD reads it again.

With memcached_servers, several pbals count together. What was seen last stands under instance_name and the address. A server that does not
answer within a second is left alone for a second, and who it would know is judged by what this pbal has seen. A ban is of one pbal alone.

Source: Perlbal's Throttle. differs: too many at once is 429 and not 403; a client that goes on asking goes on waiting, where its record
lapsed with its delay; long delays are answered 429; a ban answers 403 and does not cut; log_only refuses nobody; it works on a web_server,
too; it needs no library for its lists.
"""

from .plugin import Throttle

__all__ = ["Throttle"]
