"""What the configuration says of a spool on NATS."""

from __future__ import annotations

from pushgate.config.nats_table import Nats as NatsTable
from pushgate.config.spool_table import Spool as SpoolTable
from pushgate.spool.jetstream.cluster import Cluster, Server, Tls
from pushgate.spool.jetstream.login import Login


def nats_cluster(table: SpoolTable) -> Cluster:
    """How the settings want a spool on NATS."""
    nats = table.nats or NatsTable()
    return Cluster(
        tuple(Server(host, port) for host, port in table.nats_servers()),
        login=Login(nats.user, nats.password_file, nats.token_file, nats.nkey_file, nats.creds_file),
        tls=Tls(nats.tls, nats.ca_file, nats.cert_file, nats.key_file),
        name=nats.name,
        replicas=nats.replicas,
        manage=nats.manage,
        ack_wait_s=nats.ack_wait_s,
    )
