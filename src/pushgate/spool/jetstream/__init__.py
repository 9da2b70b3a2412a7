"""NATS JetStream as the spool needs it: a connection of our own, pulls, acknowledgements, buckets (ADR 8).

Bytes (`protocol`) → one connection (`connection`) → a link that comes back by itself (`link`) → JetStream's requests
(`api`) → our stream and buckets (`layout`) → lanes, endings and the dead.
"""
