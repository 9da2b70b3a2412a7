"""What keeps a gateway from working, looked for before somebody misses a notification. One module for a kind of check.

    finding                   what a check gives: a state, what was seen, the next step
    checkup                   all of it, the apps side by side
    permissions, certificates, caller_tls, credentials    files, read and not changed
    spool, management         the disk, and a gateway that runs
    nats                      the servers of a spool on NATS, and what is kept there
    way                       name, TCP, proxy and TLS on the way to a host
    asking, apns, fcm         one harmless request for each app, made and understood by `provider`
    clock                     what answers tell of our clock
    collector                 whether traces arrive
    patience                  blocking work that holds nobody up

Nothing is written but a file without a name in the folder of the spool. No pushkey and no credential is in a finding.
"""

from pushgate.doctor.checkup import Checkup
from pushgate.doctor.finding import Check, Finding, State

__all__ = ["Check", "Checkup", "Finding", "State"]
