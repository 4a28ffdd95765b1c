"""What surrounds a server that has a process of its own: who started it, as whom it runs, whom it tells.

    daemon      --daemon: into the background, and the parent waits until every service listens
    init        process 1 of a container: ends what is left over, passes signals on
    privileges  SERVER user and group: the right to be root is given up once the addresses are bound
    pidfile     the file with the process id, held by a lock
    notify      systemd: READY, STATUS, STOPPING, the watchdog
    handed      systemd: sockets that were bound before pbal was started
    process     all of these together, as the server sees them

None of them knows the server. A server in a test has a Process that does nothing.
"""
