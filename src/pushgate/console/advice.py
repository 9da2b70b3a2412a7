"""What an operator is told to do: for each alarm, and for what is about to end. Short: the reference page has more."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Advice(Struct, frozen=True):
    """What it means and what to do."""

    meaning: str
    mend: str
    urgent: bool


ALARMS: Mapping[str, Advice] = {
    "credentials": Advice(
        "The provider refuses our key, certificate, topic or project. Nothing of this lane gets through.",
        "Mend what the reason names and write the file in its place: it is taken over within seconds. "
        "Mended at the provider: send SIGHUP.",
        urgent=True,
    ),
    "mass_rejection": Advice(
        "So many pushkeys were called dead that the fault must be ours. None of it is believed for now.",
        "Check environment, bundle_id or project_id of the app. "
        "Were they really uninstalled: raise rejections.breaker_count.",
        urgent=True,
    ),
    "outage": Advice(
        "No proper answer of the provider: no connection, timeouts, 5xx.",
        "pushgate doctor on this machine names the step that fails: network, proxy, DNS, TLS. Fails none, look at the "
        "provider's status page. The lane goes on by itself.",
        urgent=False,
    ),
    "quota": Advice(
        "The provider says that we send too much. The lane goes on slower.",
        "Nothing at once. Does it come back daily: ask the provider for more quota.",
        urgent=False,
    ),
}

UNREADY = Advice(
    "No notifications are taken: callers get 503.",
    "Make room on the disk, or mend the lane that does not empty. Everything else goes on by itself.",
    urgent=True,
)
DRAINING = Advice("The gateway is stopping: callers get 503.", "Nothing, if that is what you want.", urgent=False)
REFUSED = Advice(
    "The configuration on disk has faults. What ran before goes on.",
    "pushgate check-config tells the faults and how to mend them.",
    urgent=True,
)
ENDED = Advice("It has ended.", "Write a new one in its place: it is taken over within seconds.", urgent=True)
ENDS_SOON = Advice("It ends soon.", "Write a new one in its place: it is taken over within seconds.", urgent=False)
NO_ANSWER = Advice(
    "The provider gives no proper answer: no connection, timeouts, 5xx.",
    "It is tried again by itself; after some minutes it is an outage. "
    "pushgate doctor on this machine names the step that fails.",
    urgent=False,
)
"""Before it is an outage: nothing is held up yet but what waits for its next attempt."""
NO_APPS = Advice(
    "No app is configured: whatever comes in fails, for there is nobody to send it to.",
    "Write its table [apps.…] into the configuration; pushgate init asks for what it needs.",
    urgent=False,
)
EXPIRED = Advice(
    "Deliveries were dropped within the last hour: their time was up.",
    "Look for an alarm or a backlog of the lane in the hours before.",
    urgent=False,
)
BROKEN = Advice(
    "Requests were answered 500 or 503 within the last hour.",
    "The log tells each fault; 503 means that the spool took nothing.",
    urgent=False,
)
OLD = Advice(
    "The oldest delivery of the lane waits for more than an hour.",
    "See what holds the lane up: its reasons name it.",
    urgent=False,
)
ORPHANED = Advice(
    "Deliveries wait for an app that is not configured.", "Configure it again, or let them lapse.", urgent=True
)
